#include "loci/ops/few_linear/few_linear.h"

#include <ATen/autocast_mode.h>
#include <gmock/gmock.h>

#include "loci/ops/few_linear/few_linear_cpu.h"
#include "loci/ops/few_linear/few_linear_definition.h"
#include "tests/op_harness.h"

// Legend: T vectors, d inputs, O outputs of each.

namespace loci::few_linear_test {
namespace {

using harness::same_bits;
using harness::strided;
using ::testing::HasSubstr;
using torch::Tensor;

struct Inputs {
  Tensor x, weight, bias;
};

Inputs inputs_of(int64_t T, int64_t d, int64_t O, torch::ScalarType type = torch::kFloat) {
  return {torch::randn({T, d}, type), torch::randn({O, d}, type), torch::randn({O}, type)};
}

Inputs in_double(const Inputs& in) {
  return {in.x.to(torch::kDouble), in.weight.to(torch::kDouble), in.bias.to(torch::kDouble)};
}

Tensor defined_result(const Inputs& in) {
  return few_linear_definition(in.x, in.weight, in.bias);
}

// The rule compares largest errors, which says nothing of few outputs: those keep the bound that holds for sums in any
// order, (d + 1) roundings of sum |x w| + |bias|.
TEST(FewLinear, KeepsTheErrorRuleWithTheSameBitsAtEveryLevel) {
  torch::manual_seed(0);
  for (const int64_t T : {0, 1, 2, 3, 4, 5, 9}) {
    for (const int64_t d : harness::kSizes) {
      for (const int64_t O : {0, 1, 3, 4, 5, 63, 200}) {
        SCOPED_TRACE(::testing::Message() << "T " << T << " d " << d << " O " << O);
        const Inputs in = inputs_of(T, d, O), wide = in_double(in);
        const Tensor definition = defined_result(in), exact = defined_result(wide);
        const Tensor bound =
            defined_result({wide.x.abs(), wide.weight.abs(), wide.bias.abs()}) * (static_cast<double>(d + 1) * 0x1p-24);
        const Tensor expected = few_linear_cpu(in.x, in.weight, in.bias, CpuLevel::base);
        ASSERT_EQ(expected.sizes(), definition.sizes());
        EXPECT_TRUE(((expected.to(torch::kDouble) - exact).abs() <= bound).all().item<bool>());
        if (O >= 63) harness::expect_error_rule(expected, definition, exact);
        for (const CpuLevel level : cpu_levels()) {
          EXPECT_TRUE(same_bits(few_linear_cpu(strided(in.x), strided(in.weight), strided(in.bias), level), expected))
              << name_of(level);
          const Tensor without = few_linear_cpu(in.x, in.weight, std::nullopt, level);
          EXPECT_TRUE(same_bits(without + in.bias, expected)) << name_of(level);
        }
      }
    }
  }
}

TEST(FewLinear, IsTheDefinitionInOtherTypes) {
  torch::manual_seed(1);
  for (const auto type : {torch::kDouble, torch::kBFloat16, torch::kHalf}) {
    const Inputs in = inputs_of(3, 17, 5, type);
    EXPECT_TRUE(same_bits(few_linear(in.x, in.weight, in.bias), at::linear(in.x, in.weight, in.bias))) << type;
  }
}

TEST(FewLinear, HasTheSameBitsForAnyThreadCountAndNeighbours) {
  torch::manual_seed(2);
  const Inputs in = inputs_of(7, 512, 1023);
  harness::expect_same_bits_for_any_thread_count(
      [&]() -> std::vector<Tensor> { return {few_linear(in.x, in.weight, in.bias)}; });
  const Tensor all = few_linear(in.x, in.weight, in.bias);
  for (int64_t T = 1; T <= 4; ++T) {
    EXPECT_TRUE(same_bits(few_linear(in.x.narrow(0, 2, T), in.weight, in.bias), all.narrow(0, 2, T))) << T;
  }
  EXPECT_TRUE(same_bits(few_linear(in.x, in.weight.narrow(0, 3, 6), in.bias.narrow(0, 3, 6)),
                        all.narrow(1, 3, 6).contiguous()));
}

TEST(FewLinear, AnswersOnEveryDevice) {
  torch::manual_seed(3);
  const auto run = [](const std::vector<Tensor>& x) -> std::vector<Tensor> {
    const auto bias = x[2].defined() ? std::optional(x[2]) : std::nullopt;
    return {few_linear(x[0], x[1], bias), linear_map(x[0], x[1], bias)};
  };
  for (const auto type : {torch::kFloat, torch::kBFloat16}) {
    const Inputs in = inputs_of(3, 20, 9, type);
    harness::expect_the_same_on_every_device(run, {in.x, in.weight, in.bias}, 1e-2);
    harness::expect_the_same_on_every_device(run, {in.x, in.weight, Tensor()}, 1e-2);
  }
}

TEST(FewLinear, HasGradientsOfTwoOrders) {
  torch::manual_seed(4);
  const Inputs in = inputs_of(3, 6, 4, torch::kDouble);
  std::vector<Tensor> leaves;
  for (const Tensor& leaf : {in.x, in.weight, in.bias}) leaves.push_back(leaf.clone().set_requires_grad(true));
  harness::expect_finite_differences([](const std::vector<Tensor>& x) { return few_linear(x[0], x[1], x[2]).square(); },
                                     leaves);
  const auto first = torch::autograd::grad({few_linear(leaves[0], leaves[1], leaves[2]).square().sum()}, {leaves[0]},
                                           {}, std::nullopt, /*create_graph=*/true);
  const auto second = torch::autograd::grad({first[0].sum()}, {leaves[0]});
  // d/dx of 2 (x W^T + b) W, summed: 2 (sum over o of W[o]) W^T W.
  const Tensor expected = 2 * in.weight.sum(1).unsqueeze(0).matmul(in.weight).expand_as(in.x);
  EXPECT_TRUE(torch::allclose(second[0], expected));
}

TEST(LinearMap, TakesAnyLeadingDimensions) {
  torch::manual_seed(5);
  const Inputs in = inputs_of(4, 33, 7);
  const Tensor flat = few_linear(in.x, in.weight, in.bias);
  EXPECT_TRUE(same_bits(linear_map(in.x.view({2, 1, 2, 33}), in.weight, in.bias), flat.view({2, 1, 2, 7})));
  EXPECT_TRUE(same_bits(linear_map(in.x[0], in.weight, in.bias), flat[0]));
  EXPECT_EQ(linear_map(in.x.view({2, 2, 33}).transpose(0, 1), in.weight).sizes(), (std::vector<int64_t>{2, 2, 7}));
  EXPECT_EQ(linear_map(torch::zeros({0, 3, 33}), in.weight).sizes(), (std::vector<int64_t>{0, 3, 7}));
  EXPECT_EQ(linear_map(torch::zeros({5, 0}), torch::zeros({7, 0})).sizes(), (std::vector<int64_t>{5, 7}));
}

// The two paths differ in their last bits, which tells them apart.
TEST(LinearMap, IsTheFrameworksForGradientsAutocastOtherTypesAndManyVectors) {
  torch::manual_seed(6);
  const Inputs in = inputs_of(4, 300, 50), many = inputs_of(5, 300, 50);
  const auto map = [](const Inputs& i) { return linear_map(i.x, i.weight, i.bias); };
  const auto framework = [](const Inputs& i) { return at::linear(i.x, i.weight, i.bias); };
  const Tensor few = few_linear(in.x, in.weight, in.bias);
  ASSERT_FALSE(same_bits(few, framework(in)));
  EXPECT_TRUE(same_bits(map(in), few));
  EXPECT_TRUE(same_bits(map(many), framework(many)));
  EXPECT_TRUE(same_bits(map(in_double(in)), framework(in_double(in))));
  const Inputs learned{in.x, in.weight.clone().set_requires_grad(true), in.bias};
  EXPECT_TRUE(same_bits(map(learned), framework(in)));
  EXPECT_TRUE(map(learned).requires_grad());
  {
    const torch::NoGradGuard no_gradient;
    EXPECT_TRUE(same_bits(map(learned), few));
  }
  at::autocast::set_autocast_enabled(at::kCPU, true);
  EXPECT_EQ(map(in).scalar_type(), at::autocast::get_autocast_dtype(at::kCPU));
  at::autocast::set_autocast_enabled(at::kCPU, false);
}

TEST(FewLinear, RefusesBadInputInThreeParts) {
  const Inputs in = inputs_of(2, 6, 5);
  const auto message = [](const Tensor& x, const Tensor& weight, const Tensor& bias) {
    return harness::message_of([&] { few_linear(x, weight, bias); });
  };
  EXPECT_THAT(message(in.x[0], in.weight, in.bias),
              HasSubstr("few_linear: x must be [T, d] of a floating type, got [6] of Float"));
  EXPECT_THAT(message(in.x.to(torch::kInt), in.weight, in.bias),
              HasSubstr("few_linear: x must be [T, d] of a floating type, got [2, 6] of Int"));
  EXPECT_THAT(message(in.x, in.weight.to(torch::kDouble), in.bias),
              HasSubstr("few_linear: weight must be Float on cpu like x, got Double on cpu"));
  EXPECT_THAT(message(in.x, in.weight.t(), in.bias), HasSubstr("few_linear: weight must be [O, 6], got [6, 5]"));
  EXPECT_THAT(message(in.x, in.weight, in.bias.to(torch::kMeta)),
              HasSubstr("few_linear: bias must be Float on cpu like x, got Float on meta"));
  EXPECT_THAT(message(in.x, in.weight, in.bias.narrow(0, 0, 4)), HasSubstr("few_linear: bias must be [5], got [4]"));
}

}  // namespace
}  // namespace loci::few_linear_test
