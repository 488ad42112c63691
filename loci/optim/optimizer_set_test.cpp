#include "loci/optim/optimizer_set.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cmath>

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
      out.push_back({"p" + std::to_string(i), parameters[i], parameters[i].dim() > 1, i == 2 ? 0.5 : 1});
    }
    return out;
  }
  void backward(int64_t seed, double scale = 1) const {
    torch::manual_seed(seed);
    for (const Tensor& p : parameters) p.mutable_grad() = torch::randn(p.sizes()) * scale;
    const Tensor out = table->read(torch::randint(0, 20, {6, 3}, at::kLong), torch::rand({6, 3}), 0);
    out.backward(torch::randn(out.sizes()) * scale);
  }
  OptimizerSet set(double clip_norm = 0) const {
    DenseOptimizerOptions options;
    options.clip_norm = clip_norm;
    options.schedule = {.warmup = 2};
    return {named(), options, {{table, {}}}, 9};
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
    const DenseOptimizerOptions options{.clip_norm = clip, .schedule = {.warmup = 2}};
    OptimizerSet ours(model.named(), options, {}, 0);
    std::vector<torch::optim::OptimizerParamGroup> groups;
    std::vector<Tensor> plain;
    for (const NamedParameter& p : model.named()) {
      plain.push_back(p.value.detach().clone().requires_grad_());
      groups.emplace_back(std::vector<Tensor>{plain.back()}, std::make_unique<torch::optim::AdamWOptions>(1e-3));
    }
    torch::optim::AdamW theirs(groups, torch::optim::AdamWOptions(1e-3));
    for (int64_t step = 0; step < 12; ++step) {
      model.backward(step);
      double square = 0;
      for (size_t i = 0; i < plain.size(); ++i) {
        plain[i].mutable_grad() = model.parameters[i].grad().clone();
        square += plain[i].grad().to(at::kDouble).square().sum().item<double>();
        auto& group = static_cast<torch::optim::AdamWOptions&>(theirs.param_groups()[i].options());
        group.lr(3e-3 * schedule_factor(options.schedule, step, 12) * model.named()[i].rate_factor);
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
  std::vector<std::vector<Tensor>> found;
  for (const int count : {1, 2, 3, 8}) {
    at::set_num_threads(count);
    const Model model;
    OptimizerSet set = model.set(1);
    for (int64_t step = 0; step < 4; ++step) {
      model.backward(step);
      set.step(step, 4);
    }
    found.push_back(copies(model.all()));
  }
  at::set_num_threads(threads);
  for (const auto& other : found) EXPECT_TRUE(equal(other, found[0]));
}

TEST(OptimizerSet, SavedAndRestoredInTheMiddleItContinuesWithTheSameBits) {
  const Model unbroken, resumed;
  OptimizerSet first = unbroken.set(1), second = resumed.set(1);
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
  EXPECT_EQ(from[0].first, "dense.p0.moment1");
  EXPECT_EQ(from.back().first, "table.memory.steps");
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

TEST(OptimizerSet, RefusesWhatItCannotTrain) {
  const auto refused = [](const Tensor& parameter) {
    EXPECT_THROW(OptimizerSet({{"p", parameter}}, {}, {}, 0), Error);
  };
  refused(torch::zeros({2, 2}, at::kBFloat16));
  refused(torch::zeros({2, 3}).t());
  const Tensor p = torch::zeros({2});
  EXPECT_THROW(OptimizerSet({{"p", p}, {"p", p}}, {}, {}, 0), Error);
}

}  // namespace
}  // namespace loci
