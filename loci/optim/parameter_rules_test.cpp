#include "loci/optim/parameter_rules.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include "loci/base/check.h"
#include "loci/optim/optimizer_set.h"
#include "tests/temporary_folder.h"

namespace loci {
namespace {

using torch::Tensor;

TEST(ParameterRules, ClippedParametersStayInTheirRangeAndOthersLeaveIt) {
  const Tensor clipped = torch::zeros({3}).requires_grad_(), other = torch::zeros({3}).requires_grad_();
  OptimizerSet set(
      {{.name = "clipped", .value = clipped, .after_update = clip_to(-0.5, 0.25)}, {.name = "other", .value = other}},
      {.learning_rate = 1, .weight_decay = 0, .clip_norm = 0, .schedule = {.warmup = 0}}, {}, 0);
  for (const Tensor& parameter : {clipped, other}) parameter.mutable_grad() = torch::tensor({1.0F, -1.0F, 0.0F});
  set.step(0, 2);
  EXPECT_TRUE(torch::equal(clipped, torch::tensor({-0.5F, 0.25F, 0.0F})));
  EXPECT_NEAR(other[0].item<double>(), -1, 1e-5);
  expect_error(ExitCode::bug, "clip_to: the range must be [low, high], got [1, 0]", [] { clip_to(1, 0); });
}

// One step of sgd is rate * factor * gradient, and of AdamW rate * factor.
TEST(ParameterRules, AFactorScalesTheRateOfItsParameterAndItsDecay) {
  for (const DenseRule kind : {DenseRule::sgd, DenseRule::adamw}) {
    const Tensor plain = torch::full({4}, 2.0F).requires_grad_(), faster = torch::full({4}, 2.0F).requires_grad_();
    OptimizerSet set({{.name = "plain", .value = plain}, {.name = "faster", .value = faster, .rate = 5}},
                     {.kind = kind,
                      .learning_rate = 0.01,
                      .weight_decay = 0.1,
                      .clip_norm = 0,
                      .schedule = {.kind = ScheduleKind::constant, .warmup = 0}},
                     {}, 0);
    for (const Tensor& parameter : {plain, faster}) parameter.mutable_grad() = torch::full({4}, 0.5F);
    set.step(0, 2);
    const double moved = 2 - plain[0].item<double>();
    EXPECT_GT(moved, 1e-3);
    EXPECT_NEAR(2 - faster[0].item<double>(), 5 * moved, 1e-5);
  }
}

}  // namespace
}  // namespace loci
