// What a memory must learn: 4,096 fixed inputs with one of 64 random classes each. Dense Adam 1e-3, values 1e-2 unless
// a test says otherwise, batches drawn with replacement, d = 64, H = 4, K = 8.
#include <ATen/ops/_fused_adam.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cmath>
#include <functional>

#include "loci/nn/memory/product_key_memory.h"
#include "loci/optim/row_optimizer.h"
#include "loci/table/local_table.h"
#include "loci/table/usage.h"

namespace loci {
namespace {

using at::Tensor;

constexpr uint64_t kSeeds[] = {0, 1, 2};  // of the claims that are cheap to repeat
constexpr int64_t kInputs = 4096, kClasses = 64, kWidth = 64;

class Adam {
 public:
  void add(const Tensor& parameter, double rate) {
    const Tensor value = parameter.detach();
    entries_.push_back({parameter, at::zeros_like(value), at::zeros_like(value), at::zeros({}), rate});
  }
  void step() {
    const torch::NoGradGuard guard;
    for (Entry& e : entries_) {
      Tensor grad = e.parameter.grad();
      if (!grad.defined()) continue;
      e.count += 1;
      at::_fused_adam_({e.parameter}, {grad}, {e.moment1}, {e.moment2}, {}, {e.count}, e.rate, 0.9, 0.999, 0, 1e-8,
                       false, false);
      e.parameter.mutable_grad().reset();
    }
  }

 private:
  struct Entry {
    Tensor parameter, moment1, moment2, count;
    double rate;
  };
  std::vector<Entry> entries_;
};

struct Data {
  Tensor inputs, classes;
};

Data plain_inputs(int64_t width) {
  return {torch::randn({kInputs, width}), torch::randint(kClasses, {kInputs}, at::kLong)};
}

// Falling scales and a large common mean: what query norms are for.
Data correlated_inputs() {
  const Tensor falling = 1 / at::arange(1, kWidth + 1, at::kFloat);
  const Tensor scale = falling / falling.pow(2).mean().sqrt();
  const Tensor x = torch::randn({kInputs, kWidth}) * scale + 3 * torch::randn({kWidth});
  return {x / x.std(), torch::randint(kClasses, {kInputs}, at::kLong)};
}

struct Result {
  double accuracy, usage, usage_at_1;
};

Result measure(const Data& data, ProductKeyMemory* memory, const std::function<Tensor(const Tensor&)>& logits) {
  const torch::NoGradGuard guard;
  const auto accuracy = [&] {
    return logits(data.inputs).argmax(1).eq(data.classes).to(at::kDouble).mean().item<double>();
  };
  if (memory == nullptr) return {accuracy(), 0, 0};
  memory->eval();
  const auto counters = std::make_shared<Usage>(memory->table()->rows());
  const ObserverScope counting(*memory, counters);
  const double found = accuracy();
  const UsageMetrics usage = counters->metrics();
  return {found, usage.usage, usage.usage_at_1};
}

void train(const Data& data, int64_t steps, int64_t batch, const std::function<Tensor(const Tensor&)>& logits,
           const std::function<void()>& update) {
  for (int64_t step = 0; step < steps; ++step) {
    const Tensor pick = torch::randint(kInputs, {batch}, at::kLong);
    at::cross_entropy_loss(logits(data.inputs.index_select(0, pick)), data.classes.index_select(0, pick)).backward();
    update();
  }
}

struct Memory {
  std::shared_ptr<LocalTable> table;
  std::shared_ptr<ProductKeyMemory> layer;
};

Memory make_memory(int64_t n, const std::function<void(ProductKeyMemoryOptions&)>& change = [](auto&) {}) {
  ProductKeyMemoryOptions options;
  options.width = kWidth;
  options.heads = 4;
  options.top_k = 8;
  options.key_width = 32;
  change(options);
  auto table = std::make_shared<LocalTable>("values", n * n, kWidth);
  table->store().initialise_normal(1, 1 / std::sqrt(static_cast<double>(kWidth)));
  return {table, std::make_shared<ProductKeyMemory>("memory", options, table, 1)};
}

// A step of dense Adam on all rows, as the papers make it: what backward left becomes values().grad().
void take_dense_gradient(Table& table) {
  RowStore& rows = table.store();
  const RowGradient sum = rows.references().sum();
  rows.references().clear();
  rows.values().mutable_grad() = at::zeros({table.rows(), table.width()}).index_copy_(0, sum.row, sum.gradient);
}

// Spec L1: `between` stands between the linear maps, as h + between(h).
double accuracy_between(const std::function<Tensor(const Tensor&)>& between, std::vector<Tensor> parameters,
                        const TablePtr& table, ProductKeyMemory* memory) {
  const Data data = plain_inputs(32);
  torch::nn::Linear in(32, kWidth), out(kWidth, kClasses);
  for (const auto& module : {in, out}) {
    for (const auto& parameter : module->parameters()) parameters.push_back(parameter);
  }
  Adam adam;
  for (const Tensor& parameter : parameters) adam.add(parameter, 1e-3);
  if (table) {
    adam.add(table->store().values(), 1e-2);
  }
  const auto logits = [&](const Tensor& x) {
    const Tensor h = in(x);
    return out(h + between(h));
  };
  train(data, 600, 512, logits, [&] {
    if (table) take_dense_gradient(*table);
    adam.step();
  });
  return measure(data, memory, logits).accuracy;
}

TEST(MemoryLearning, AMemoryLearnsRandomFactsThatASmallNetCannot) {
  for (const uint64_t seed : kSeeds) {
    torch::manual_seed(seed);
    const Memory memory = make_memory(64);
    EXPECT_GE(accuracy_between([&](const Tensor& h) { return memory.layer->forward(h); }, memory.layer->parameters(),
                               memory.table, memory.layer.get()),
              0.99)
        << seed;
  }
  torch::manual_seed(0);
  torch::nn::Sequential net(torch::nn::Linear(kWidth, 256), torch::nn::ReLU(), torch::nn::Linear(256, kWidth));
  EXPECT_LE(accuracy_between([&](const Tensor& h) { return net->forward(h); }, net->parameters(), nullptr, nullptr),
            0.6);
}

// Spec L2 and L3.
Result learn_correlated(const std::function<void(ProductKeyMemoryOptions&)>& change, uint64_t seed = 0) {
  torch::manual_seed(seed);
  const Data data = correlated_inputs();
  const Memory memory = make_memory(128, change);
  torch::nn::Linear out(kWidth, kClasses);
  Adam adam;
  for (const auto& parameter : memory.layer->parameters()) adam.add(parameter, 1e-3);
  for (const auto& parameter : out->parameters()) adam.add(parameter, 1e-3);
  adam.add(memory.table->store().values(), 1e-2);
  const auto logits = [&](const Tensor& x) { return out(memory.layer->forward(x)); };
  train(data, 400, 512, logits, [&] {
    take_dense_gradient(*memory.table);
    adam.step();
  });
  return measure(data, memory.layer.get(), logits);
}

TEST(MemoryLearning, QueryNormRaisesUsage) {
  for (const uint64_t seed : kSeeds) {
    EXPECT_LT(learn_correlated([](auto& o) { o.query_norm = QueryNorm::none; }, seed).usage, 0.40) << seed;
    EXPECT_GT(learn_correlated([](auto& o) { o.query_norm = QueryNorm::layer; }, seed).usage, 0.60) << seed;
  }
}

TEST(MemoryLearning, MoreHeadsWithFewerReadsRaiseUsageAtOne) {
  double before = 0;
  for (const auto& [heads, top_k] : std::vector<std::pair<int64_t, int64_t>>{{1, 32}, {2, 16}, {4, 8}, {8, 4}}) {
    const Result result = learn_correlated([&](auto& o) {
      o.query_norm = QueryNorm::batch;
      o.heads = heads;
      o.top_k = top_k;
    });
    EXPECT_GE(result.accuracy, 0.99) << heads;
    EXPECT_GT(result.usage, heads == 4 ? 0.90 : 0.88) << heads;
    EXPECT_GT(result.usage_at_1, before) << heads;
    before = result.usage_at_1;
  }
}

// Spec L4.
TEST(MemoryLearning, EveryRowOptimizerLearnsFromZeroValues) {
  struct Arm {
    RowRule rule;
    double rate, epsilon, accuracy;
  };
  for (const Arm& arm : {Arm{RowRule::adam, 4e-2, 1e-8, 0.99}, Arm{RowRule::adam_row_moment, 4e-2, 1e-8, 0.99},
                         Arm{RowRule::adagrad, 0.3, 1e-10, 0.99}, Arm{RowRule::sgd, 300, 0, 0.98}}) {
    torch::manual_seed(0);
    const Data data = plain_inputs(32);
    const Memory memory = make_memory(256);
    memory.table->store().initialise_zero();
    torch::nn::Linear in(32, kWidth), out(kWidth, kClasses);
    Adam adam;
    for (const auto& parameter : memory.layer->parameters()) adam.add(parameter, 1e-3);
    for (const auto& parameter : in->parameters()) adam.add(parameter, 1e-3);
    for (const auto& parameter : out->parameters()) adam.add(parameter, 1e-3);
    RowOptimizerOptions options;
    options.rule = arm.rule;
    options.learning_rate = arm.rate;
    options.epsilon = arm.epsilon;
    RowOptimizer rows(memory.table, options, 1);
    const auto logits = [&](const Tensor& x) {
      const Tensor h = in(x);
      return out(h + memory.layer->forward(h));
    };
    train(data, 300, 128, logits, [&] {
      adam.step();
      rows.step();
    });
    EXPECT_GE(measure(data, memory.layer.get(), logits).accuracy, arm.accuracy) << static_cast<int>(arm.rule);
  }
}

}  // namespace
}  // namespace loci
