#include "loci/optim/dense_optimizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <limits>

#include "loci/base/check.h"
#include "loci/base/config.h"
#include "loci/optim/optimizer_set.h"
#include "tests/temporary_folder.h"

namespace loci {
namespace {

using at::Tensor;

// A convolution's weight with the same numbers in both layouts.
TEST(DenseOptimizer, ChannelsLastParametersKeepTheirLayoutAndTakeTheSameSteps) {
  for (const DenseRule kind : {DenseRule::adamw, DenseRule::sgd}) {
    torch::manual_seed(3);
    const Tensor start = torch::randn({6, 4, 3, 3});
    const Tensor rows = start.clone().requires_grad_();
    const Tensor last = start.clone().contiguous(at::MemoryFormat::ChannelsLast).requires_grad_();
    const DenseOptimizerOptions options{.kind = kind, .schedule = {.warmup = 0}};
    OptimizerSet first({{"w", rows}}, options, {}, 0), second({{"w", last}}, options, {}, 0);
    for (int64_t step = 0; step < 3; ++step) {
      const Tensor gradient = torch::randn({6, 4, 3, 3});
      rows.mutable_grad() = gradient.clone();
      // Backward gives either layout; both must be taken as what they are.
      last.mutable_grad() = step == 1 ? gradient.clone() : gradient.clone().contiguous(at::MemoryFormat::ChannelsLast);
      EXPECT_NEAR(first.step(step, 3).dense_norm, second.step(step, 3).dense_norm, 1e-12);
    }
    EXPECT_TRUE(last.is_contiguous(at::MemoryFormat::ChannelsLast));
    EXPECT_TRUE(second.state()[0].second.is_contiguous(at::MemoryFormat::ChannelsLast));
    EXPECT_TRUE(torch::allclose(rows, last, 1e-6, 1e-7));
    EXPECT_TRUE(torch::allclose(first.state()[0].second, second.state()[0].second, 1e-6, 1e-7));
  }
}

// A parameter that is the sum of two numbers each: its gradient is that of both.
TEST(DenseOptimizer, AnOwnUpdateTrainsALargerTensor) {
  torch::manual_seed(4);
  const Tensor pairs = torch::randn({2, 6}), twin = pairs.clone().requires_grad_();
  const Tensor sum = pairs.sum(0).requires_grad_();
  const DenseOptimizerOptions options{
      .kind = DenseRule::sgd, .learning_rate = 0.1, .weight_decay = 0.2, .clip_norm = 0, .schedule = {.warmup = 0}};
  const auto apply = [&](const Tensor& gradient, const Tensor& velocity, const SgdUpdate& update) {
    velocity.mul_(update.momentum).add_(gradient / update.divisor + update.decay * pairs);
    pairs.sub_(update.rate * velocity);
    sum.copy_(pairs.sum(0));
  };
  NamedParameter parameter{.name = "sum", .value = sum, .rate = 0.5};
  parameter.own = {pairs, apply};
  OptimizerSet set({parameter}, options, {}, 0);
  OptimizerSet plain({{.name = "pairs", .value = twin, .rate = 0.5}}, options, {}, 0);
  EXPECT_EQ(set.state()[0].second.sizes(), pairs.sizes());
  for (int64_t step = 0; step < 3; ++step) {
    const Tensor weight = torch::randn({6});
    (sum * weight).sum().backward();
    (twin.sum(0) * weight).sum().backward();
    set.step(step, 3, 2);
    plain.step(step, 3, 2);
    EXPECT_TRUE(torch::allclose(pairs, twin.detach(), 1e-6, 1e-7)) << step;
    EXPECT_TRUE(torch::allclose(set.state()[0].second, plain.state()[0].second, 1e-6, 1e-7));
  }
  try {
    const OptimizerSet adam({parameter}, {}, {}, 0);
    ADD_FAILURE() << "accepted";
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), testing::HasSubstr("optimizer.kind must be \"sgd\" for sum"));
  }
}

TEST(DenseOptimizer, CallsTheHookOfAParameterAfterItsUpdateAlone) {
  torch::manual_seed(2);
  const Tensor clipped = torch::randn({40}).requires_grad_(), other = torch::randn({5}).requires_grad_();
  int calls = 0;
  const auto clip = [&calls](Tensor& value) {
    ++calls;
    value.clamp_(-0.25, 0.25);
  };
  OptimizerSet set({{.name = "clipped", .value = clipped, .after_update = clip}, {.name = "other", .value = other}}, {},
                   {}, 0);
  clipped.mutable_grad() = torch::randn({40});
  other.mutable_grad() = torch::randn({5});
  set.step(0, 4);
  EXPECT_EQ(calls, 1);
  EXPECT_EQ(clipped.abs().max().item<float>(), 0.25F);
  EXPECT_GT(other.abs().max().item<float>(), 0.25F);
  other.mutable_grad() = torch::randn({5});
  set.step(1, 4);  // no gradient: no update, no hook
  clipped.mutable_grad() = torch::full({40}, std::numeric_limits<float>::infinity());
  EXPECT_TRUE(set.step(2, 4).skipped);
  EXPECT_EQ(calls, 1);
}

// Rows are vectors of the last dimension, whatever stands before it.
TEST(DenseOptimizer, ClearedRowsLoseTheirMomentsAndTakeTheMeanSecondMomentOfOthers) {
  for (const DenseRule kind : {DenseRule::adamw, DenseRule::sgd}) {
    const Tensor keys = torch::randn({2, 3, 4}).requires_grad_();
    OptimizerSet set({{"keys", keys}}, {.kind = kind, .clip_norm = 0, .schedule = {}}, {}, 0);
    for (int64_t step = 0; step < 3; ++step) {
      keys.mutable_grad() = torch::randn({2, 3, 4});
      set.step(step, 4);
    }
    const auto state = set.state();
    std::vector<Tensor> before;
    for (const auto& [name, tensor] : state) before.push_back(tensor.clone());
    set.clear_rows(keys, torch::tensor({1, 4}), torch::tensor({0, 3}));
    const auto rows = [](const Tensor& moment) { return moment.view({6, 4}); };
    for (const int64_t row : {0, 2, 3, 5}) {
      for (const size_t moment : {0, 1}) {
        if (moment >= state.size()) continue;
        EXPECT_TRUE(torch::equal(rows(state[moment].second)[row], rows(before[moment])[row])) << row;
      }
    }
    for (const int64_t row : {1, 4}) {
      EXPECT_EQ(rows(state[0].second)[row].count_nonzero().item<int64_t>(), 0);
      if (kind == DenseRule::sgd) continue;
      const Tensor mean = (rows(before[1])[0] + rows(before[1])[3]) / 2;
      EXPECT_TRUE(torch::allclose(rows(state[1].second)[row], mean, 1e-6, 0));
    }
    if (kind == DenseRule::sgd) continue;
    EXPECT_EQ(state[2].second.item<float>(), 3);  // the count belongs to no row
    set.clear_rows(keys, torch::tensor({5}));
    EXPECT_EQ(rows(state[1].second)[5].count_nonzero().item<int64_t>(), 0);
    EXPECT_THROW(set.clear_rows(torch::zeros({1, 2}), torch::tensor({0})), Error);
  }
}

TEST(DenseOptimizer, RowsOfAParameterThatIsNotContiguousAreNotCleared) {
  for (const DenseRule kind : {DenseRule::adamw, DenseRule::sgd}) {
    const Tensor filter = torch::randn({2, 3, 2, 2}).contiguous(at::MemoryFormat::ChannelsLast).requires_grad_();
    OptimizerSet set({{"filter", filter}}, {.kind = kind, .schedule = {}}, {}, 0);
    expect_error(ExitCode::bug, "must be contiguous for its rows to be cleared, got [2, 3, 2, 2]",
                 [&] { set.clear_rows(filter, torch::tensor({0})); });
  }
}

TEST(DenseOptimizer, ReadsTheKeysOfItsKindAlone) {
  const auto message = [](const std::string& text) -> std::string {
    DenseOptimizerOptions options;
    try {
      Config::from_text(text).read(options);
      options.check();
      return "";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ExitCode::usage);
      return error.what();
    }
  };
  EXPECT_EQ(message("kind = \"sgd\"\nmomentum = 0.5\nnesterov = true"), "");
  EXPECT_EQ(message("beta1 = 0.5"), "");
  EXPECT_THAT(message("kind = \"sgd\"\nbeta1 = 0.5"), testing::HasSubstr("beta1 must be left out"));
  EXPECT_THAT(message("momentum = 0.5"), testing::HasSubstr("only where optimizer.kind is \"sgd\""));
  EXPECT_THAT(message("kind = \"sgd\"\nmomentum = 0\nnesterov = true"),
              testing::HasSubstr("optimizer.momentum must be above 0"));
  EXPECT_THAT(message("kind = \"adam\""), testing::HasSubstr("one of \"adamw\", \"sgd\""));
}

TEST(DenseOptimizer, RefusesWhatItCannotTrain) {
  const auto refused = [](const Tensor& parameter) {
    EXPECT_THROW(OptimizerSet({{"p", parameter}}, {}, {}, 0), Error);
  };
  refused(torch::zeros({2, 2}, at::kBFloat16));
  refused(torch::zeros({4, 3}).slice(1, 0, 2));  // gaps
  refused(torch::zeros({2, 3}, at::TensorOptions().device(at::kMeta)));
  const Tensor p = torch::zeros({2});
  EXPECT_THROW(OptimizerSet({{"p", p}, {"p", p}}, {}, {}, 0), Error);
}

}  // namespace
}  // namespace loci
