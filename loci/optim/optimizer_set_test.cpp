#include "loci/optim/optimizer_set.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cmath>
#include <limits>

#include "loci/base/check.h"
#include "loci/table/local_table.h"

namespace loci {
namespace {

using at::Tensor;

struct Model {
  std::vector<Tensor> parameters;
  TablePtr table;

  Model() {
    torch::manual_seed(1);
    for (const auto& sizes : std::vector<std::vector<int64_t>>{{13, 7}, {13}, {3, 5, 2}, {}, {40, 333}}) {
      parameters.push_back(torch::randn(sizes).requires_grad_());
    }
    auto local = std::make_shared<LocalTable>("memory", 20, 4);
    local->store().initialise_normal(1, 1);
    local->register_use();
    table = local;
  }
  std::vector<NamedParameter> named() const {
    std::vector<NamedParameter> out;
    for (size_t i = 0; i < parameters.size(); ++i) {
      out.push_back({"p" + std::to_string(i), parameters[i], parameters[i].dim() > 1, /*embedding=*/i == 4});
    }
    return out;
  }
  void backward(int64_t seed, double scale = 1) const {
    torch::manual_seed(seed);
    for (const Tensor& p : parameters) p.mutable_grad() = torch::randn(p.sizes()) * scale;
    const Tensor out = table->read(torch::randint(0, 20, {6, 3}, at::kLong), torch::rand({6, 3}), 0);
    out.backward(torch::randn(out.sizes()) * scale);
  }
  OptimizerSet set(double clip_norm = 0, DenseRule kind = DenseRule::adamw, Reduce reduce = {}) const {
    DenseOptimizerOptions options;
    options.kind = kind;
    options.clip_norm = clip_norm;
    options.schedule = {.warmup = 2};
    return {named(), options, {{table, {}}}, 9, std::move(reduce)};
  }
  std::vector<Tensor> all() const {
    std::vector<Tensor> out = parameters;
    out.push_back(table->store().values());
    return out;
  }
};

std::vector<Tensor> copies(const std::vector<Tensor>& tensors) {
  std::vector<Tensor> out;
  for (const Tensor& t : tensors) out.push_back(t.detach().clone());
  return out;
}

bool equal(const std::vector<Tensor>& a, const std::vector<Tensor>& b) {
  return a.size() == b.size() &&
         std::equal(a.begin(), a.end(), b.begin(), [](const Tensor& x, const Tensor& y) { return torch::equal(x, y); });
}

TEST(OptimizerSet, EqualsAdamWOfTheFramework) {
  for (const double clip : {0.0, 1.0}) {
    const Model model;
    const DenseOptimizerOptions options{.embedding_rate = 7, .clip_norm = clip, .schedule = {.warmup = 2}};
    OptimizerSet ours(model.named(), options, {}, 0);
    const std::vector<Tensor> plain = copies(model.parameters);
    std::vector<torch::optim::OptimizerParamGroup> groups;
    for (const Tensor& p : plain) {
      groups.emplace_back(std::vector<Tensor>{p.requires_grad_()}, std::make_unique<torch::optim::AdamWOptions>(1e-3));
    }
    torch::optim::AdamW theirs(groups, torch::optim::AdamWOptions(1e-3));
    for (int64_t step = 0; step < 12; ++step) {
      model.backward(step);
      double square = 0;
      for (size_t i = 0; i < plain.size(); ++i) {
        plain[i].mutable_grad() = model.parameters[i].grad().clone();
        square += plain[i].grad().to(at::kDouble).square().sum().item<double>();
        auto& group = static_cast<torch::optim::AdamWOptions&>(theirs.param_groups()[i].options());
        group.lr((i == 4 ? 7 : 1) * 3e-3 * schedule_factor(options.schedule, step, 12));
        group.betas({0.9, 0.95}).eps(1e-8).weight_decay(model.named()[i].decay ? 0.1 : 0);
      }
      if (clip > 0) torch::nn::utils::clip_grad_norm_(plain, clip);
      theirs.step();
      const StepReport report = ours.step(step, 12);
      EXPECT_NEAR(report.dense_norm, std::sqrt(square), 1e-9 * std::sqrt(square));
      EXPECT_DOUBLE_EQ(report.rate, 3e-3 * schedule_factor(options.schedule, step, 12));
      EXPECT_FALSE(report.skipped);
      for (const Tensor& p : model.parameters) EXPECT_FALSE(p.grad().defined());
    }
    for (size_t i = 0; i < plain.size(); ++i) {
      EXPECT_LT((plain[i] - model.parameters[i]).abs().max().item<double>(), 2e-6) << i;
    }
  }
}

TEST(OptimizerSet, EqualsSgdOfTheFramework) {
  for (const auto& [momentum, nesterov] : std::vector<std::pair<double, bool>>{{0, false}, {0.9, false}, {0.9, true}}) {
    const Model model;
    const DenseOptimizerOptions options{.kind = DenseRule::sgd,
                                        .learning_rate = 0.1,
                                        .embedding_rate = 2,
                                        .momentum = momentum,
                                        .nesterov = nesterov,
                                        .weight_decay = 0.01,
                                        .clip_norm = 0,
                                        .schedule = {.kind = ScheduleKind::constant, .warmup = 0}};
    OptimizerSet ours(model.named(), options, {}, 0);
    EXPECT_EQ(ours.state().size(), momentum == 0 ? 0u : model.parameters.size());
    std::vector<torch::optim::OptimizerParamGroup> groups;
    std::vector<Tensor> plain;
    for (const NamedParameter& p : model.named()) {
      plain.push_back(p.value.detach().clone().requires_grad_());
      auto group = std::make_unique<torch::optim::SGDOptions>(p.embedding ? 0.2 : 0.1);
      group->momentum(momentum).nesterov(nesterov).weight_decay(p.decay ? 0.01 : 0);
      groups.emplace_back(std::vector<Tensor>{plain.back()}, std::move(group));
    }
    torch::optim::SGD theirs(groups, torch::optim::SGDOptions(0.1));
    for (int64_t step = 0; step < 8; ++step) {
      model.backward(step, 3);
      for (size_t i = 0; i < plain.size(); ++i) plain[i].mutable_grad() = model.parameters[i].grad() / 3;
      theirs.step();
      ours.step(step, 8, 3);
    }
    for (size_t i = 0; i < plain.size(); ++i) {
      EXPECT_LT((plain[i] - model.parameters[i]).abs().max().item<double>(), 2e-6) << i << " " << momentum;
    }
  }
}

TEST(OptimizerSet, DenseAndRowsAreSkippedTogetherWhenOneIsNotFinite) {
  for (const bool in_rows : {false, true}) {
    const Model model;
    OptimizerSet set = model.set();
    model.backward(1);
    set.step(0, 10);
    const auto values = copies(model.all());
    std::vector<Tensor> state;
    for (const auto& [name, tensor] : set.state()) state.push_back(tensor);
    const auto state_before = copies(state);
    model.backward(2);
    if (in_rows) {
      model.table->store().references().add({torch::zeros({1, 1}, at::kLong), torch::ones({1, 1}),
                                             torch::full({1, 4}, std::numeric_limits<float>::infinity()), 1, 0});
    } else {
      model.parameters[1].mutable_grad()[3] = std::nanf("");
    }
    const StepReport report = set.step(1, 10);
    EXPECT_TRUE(report.skipped);
    EXPECT_TRUE(report.tables[0].skipped);
    EXPECT_TRUE(equal(model.all(), values));
    EXPECT_TRUE(equal(state, state_before));
    EXPECT_TRUE(model.table->store().references().empty());
    EXPECT_FALSE(model.parameters[0].grad().defined());
  }
}

TEST(OptimizerSet, ScaleDividesEveryGradient) {
  const Model a, b;
  OptimizerSet first = a.set(1), second = b.set(1);
  for (int64_t step = 0; step < 3; ++step) {
    a.backward(step);
    b.backward(step, 4);
    const StepReport x = first.step(step, 3), y = second.step(step, 3, 4);
    EXPECT_EQ(x.dense_norm, y.dense_norm);
    EXPECT_EQ(x.tables[0].norm, y.tables[0].norm);
  }
  for (size_t i = 0; i < a.parameters.size(); ++i) {
    EXPECT_TRUE(torch::allclose(a.parameters[i], b.parameters[i], 1e-5, 1e-6));
  }
  EXPECT_TRUE(torch::equal(a.table->store().values(), b.table->store().values()));
}

TEST(OptimizerSet, HasTheSameBitsForAnyThreadCount) {
  const int threads = at::get_num_threads();
  for (const DenseRule kind : {DenseRule::adamw, DenseRule::sgd}) {
    std::vector<std::vector<Tensor>> found;
    for (const int count : {1, 2, 3, 8}) {
      at::set_num_threads(count);
      const Model model;
      OptimizerSet set = model.set(1, kind);
      for (int64_t step = 0; step < 4; ++step) {
        model.backward(step);
        set.step(step, 4);
      }
      found.push_back(copies(model.all()));
    }
    for (const auto& other : found) EXPECT_TRUE(equal(other, found[0]));
  }
  at::set_num_threads(threads);
}

void expect_resumed_bits(DenseRule kind) {
  const Model unbroken, resumed;
  OptimizerSet first = unbroken.set(1, kind), second = resumed.set(1, kind);
  for (int64_t step = 0; step < 3; ++step) {
    unbroken.backward(step);
    first.step(step, 8);
  }
  const torch::NoGradGuard no_grad;
  for (size_t i = 0; i < unbroken.all().size(); ++i) resumed.all()[i].copy_(unbroken.all()[i]);
  const auto from = first.state(), to = second.state();
  ASSERT_EQ(from.size(), to.size());
  for (size_t i = 0; i < from.size(); ++i) {
    EXPECT_EQ(from[i].first, to[i].first);
    to[i].second.copy_(from[i].second);
  }
  const torch::AutoGradMode grad(true);
  for (int64_t step = 3; step < 8; ++step) {
    unbroken.backward(step);
    first.step(step, 8);
    resumed.backward(step);
    second.step(step, 8);
  }
  EXPECT_TRUE(equal(unbroken.all(), resumed.all()));
  EXPECT_EQ(from[0].first, kind == DenseRule::adamw ? "dense.p0.moment1" : "dense.p0.momentum");
  EXPECT_EQ(from.back().first, "table.memory.steps");
}

TEST(OptimizerSet, SavedAndRestoredInTheMiddleItContinuesWithTheSameBits) {
  expect_resumed_bits(DenseRule::adamw);
  expect_resumed_bits(DenseRule::sgd);
}

TEST(OptimizerSet, AParameterWithoutAGradientKeepsItsBitsAndItsCount) {
  const Model model;
  OptimizerSet set = model.set();
  model.backward(1);
  model.parameters[0].mutable_grad().reset();
  const Tensor before = model.parameters[0].detach().clone();
  set.step(0, 10);
  EXPECT_TRUE(torch::equal(model.parameters[0], before));
  EXPECT_EQ(set.state()[2].first, "dense.p0.count");
  EXPECT_EQ(set.state()[2].second.item<float>(), 0);
  EXPECT_EQ(set.state()[5].second.item<float>(), 1);
  EXPECT_NO_THROW(set.step(1, 10));  // nothing pending at all
}

TEST(OptimizerSet, AGradientThatIsNotContiguousGivesTheSameBits) {
  const Model a, b;
  OptimizerSet first = a.set(), second = b.set();
  a.backward(1);
  b.backward(1);
  b.parameters[0].mutable_grad() = b.parameters[0].grad().t().contiguous().t();
  first.step(0, 4);
  second.step(0, 4);
  EXPECT_TRUE(torch::equal(a.parameters[0], b.parameters[0]));
}

// Two ranks, one after the other: the other's contribution is added by hand.
TEST(OptimizerSet, SumsGradientsOverRanksBeforeTheNormAndSkipsWhenOneRankMust) {
  const Model alone, rank;
  OptimizerSet whole = alone.set(1);
  Model other;
  bool other_is_finite = true;
  double others_number = 5;
  int calls = 0;
  OptimizerSet part = rank.set(1, DenseRule::adamw, [&](const std::vector<Tensor>& tensors) {
    ++calls;
    const size_t gradients = other.parameters.size();
    ASSERT_EQ(tensors.size(), gradients + 2);
    for (size_t i = 0; i < gradients; ++i) tensors[i].add_(other.parameters[i].grad());
    if (!other_is_finite) tensors[gradients][0] += 1;
    tensors[gradients + 1].add_(others_number);
  });
  alone.backward(1);
  rank.backward(1);
  other.backward(2);
  for (size_t i = 0; i < alone.parameters.size(); ++i) {
    alone.parameters[i].mutable_grad() = alone.parameters[i].grad() + other.parameters[i].grad();
  }
  const Tensor beside = torch::tensor({3.0}, at::kDouble);
  part.sum_beside(beside);
  const StepReport a = whole.step(0, 4, 2), b = part.step(0, 4, 2);
  EXPECT_EQ(a.dense_norm, b.dense_norm);
  EXPECT_EQ(calls, 1);
  EXPECT_EQ(beside.item<double>(), 8);
  for (size_t i = 0; i < alone.parameters.size(); ++i) {
    EXPECT_TRUE(torch::equal(alone.parameters[i], rank.parameters[i]));
  }
  const auto before = copies(rank.all());
  const auto expect_skipped = [&] {
    rank.backward(3);
    part.sum_beside(torch::tensor({3.0}, at::kDouble));
    EXPECT_TRUE(part.step(1, 4, 2).skipped);
    EXPECT_TRUE(equal(rank.all(), before));
  };
  other_is_finite = false;
  expect_skipped();
  other_is_finite = true;
  others_number = std::numeric_limits<double>::quiet_NaN();
  expect_skipped();
}

TEST(OptimizerSet, ClearsTheStateOfOneParameter) {
  const Model model;
  OptimizerSet set = model.set();
  model.backward(1);
  set.step(0, 4);
  set.clear_state(model.parameters[1]);
  EXPECT_EQ(set.state()[3].second.count_nonzero().item<int64_t>(), 0);
  EXPECT_EQ(set.state()[5].second.item<float>(), 0);
  EXPECT_NE(set.state()[0].second.count_nonzero().item<int64_t>(), 0);
  EXPECT_THROW(set.clear_state(torch::zeros({1})), Error);
  EXPECT_EQ(&set.rows_of(*model.table), &set.rows_of(*model.table));
  EXPECT_THROW(set.rows_of(*Model().table), Error);
}

}  // namespace
}  // namespace loci
