#include "loci/nn/few_linear.h"

#include <ATen/autocast_mode.h>
#include <gmock/gmock.h>

#include "loci/nn/memory/product_key_memory.h"
#include "loci/table/local_table.h"
#include "tests/op_harness.h"

// Legend: T rows, d their width, O outputs.

namespace loci {
namespace {

using harness::same_bits;
using harness::strided;
using torch::Tensor;

struct Inputs {
  Tensor x, weight, bias;
};

Inputs inputs_of(int64_t T, int64_t d, int64_t O) {
  return {torch::randn({T, d}), torch::randn({O, d}), torch::randn({O})};
}

// The rule compares largest errors, which says nothing of few outputs: those keep the bound that holds for sums in any
// order, (d + 1) roundings of sum |x w| + |bias|.
TEST(FewLinear, KeepsTheErrorRuleAtEveryLevel) {
  torch::manual_seed(0);
  for (const int64_t T : {0, 1, 3, 4, 7}) {
    for (const int64_t d : {1, 7, 8, 9, 15, 16, 17, 31, 33, 64, 100}) {
      for (const int64_t O : {0, 1, 3, 4, 5, 63, 64, 65, 200}) {
        SCOPED_TRACE(::testing::Message() << "T " << T << " d " << d << " O " << O);
        const Inputs in = inputs_of(T, d, O);
        const Tensor definition = at::linear(in.x, in.weight, in.bias);
        const Tensor exact =
            at::linear(in.x.to(torch::kDouble), in.weight.to(torch::kDouble), in.bias.to(torch::kDouble));
        const Tensor bound = at::linear(in.x.to(torch::kDouble).abs(), in.weight.to(torch::kDouble).abs(),
                                        in.bias.to(torch::kDouble).abs()) *
                             (static_cast<double>(d + 1) * 0x1p-24);
        for (const CpuLevel level : cpu_levels()) {
          const Tensor y = few_linear(strided(in.x), strided(in.weight), strided(in.bias), level);
          ASSERT_EQ(y.sizes(), definition.sizes());
          EXPECT_TRUE(((y.to(torch::kDouble) - exact).abs() <= bound).all().item<bool>()) << name_of(level);
          if (O >= 63) harness::expect_error_rule(y, definition, exact);
        }
      }
    }
  }
}

TEST(FewLinear, IsExactForWholeNumbersAtEveryLevel) {
  torch::manual_seed(1);
  const auto whole = [](std::vector<int64_t> sizes) { return torch::randint(-3, 4, sizes, torch::kFloat); };
  const Tensor x = whole({4, 77}), weight = whole({130, 77}), bias = whole({130});
  for (const CpuLevel level : cpu_levels()) {
    EXPECT_TRUE(torch::equal(few_linear(x, weight, bias, level), at::linear(x, weight, bias)));
  }
}

TEST(FewLinear, HasTheSameBitsForAnyThreadCountAndNeighbours) {
  torch::manual_seed(2);
  const Inputs in = inputs_of(4, 512, 1023);
  harness::expect_same_bits_for_any_thread_count(
      [&]() -> std::vector<Tensor> { return {few_linear(in.x, in.weight, in.bias)}; });
  const Tensor all = few_linear(in.x, in.weight, in.bias);
  EXPECT_TRUE(same_bits(few_linear(in.x.narrow(0, 2, 1), in.weight, in.bias), all.narrow(0, 2, 1)));
  EXPECT_TRUE(same_bits(few_linear(in.x, in.weight.narrow(0, 3, 6), in.bias.narrow(0, 3, 6)),
                        all.narrow(1, 3, 6).contiguous()));
}

TEST(FewLinear, StandsAsideForGradientsAutocastOtherTypesAndManyRows) {
  const Inputs in = inputs_of(4, 6, 5);
  const auto takes = [](const Inputs& i) { return few_linear_takes(i.x, i.weight, i.bias); };
  EXPECT_TRUE(takes(in));
  EXPECT_FALSE(takes(inputs_of(5, 6, 5)));
  EXPECT_FALSE(takes({in.x.to(torch::kDouble), in.weight.to(torch::kDouble), in.bias.to(torch::kDouble)}));
  const Inputs learned{in.x, in.weight.clone().set_requires_grad(true), in.bias};
  EXPECT_FALSE(takes(learned));
  {
    const torch::NoGradGuard no_gradient;
    EXPECT_TRUE(takes(learned));
  }
  at::autocast::set_autocast_enabled(at::kCPU, true);
  EXPECT_FALSE(takes(in));
  at::autocast::set_autocast_enabled(at::kCPU, false);
}

// In whole numbers all products are exact, so that the ways of one token and of many must agree in bits.
TEST(FewLinear, OneTokenOfAMemoryWithoutGradientHasTheBitsOfABatch) {
  torch::manual_seed(3);
  const auto table = std::make_shared<LocalTable>("values", 49, 32, LocalTableOptions{});
  table->store().initialise_normal(1, 1);
  ProductKeyMemoryOptions options;
  options.width = 32;
  options.heads = 2;
  options.top_k = 5;
  options.key_width = 16;
  options.query_norm = QueryNorm::none;
  ProductKeyMemory memory("memory", options, table, 2);
  const torch::NoGradGuard no_gradient;
  for (auto& parameter : memory.parameters()) parameter.copy_(torch::randint(-2, 3, parameter.sizes(), torch::kFloat));
  const Tensor x = torch::randint(-2, 3, {9, 32}, torch::kFloat);
  const MemoryReads all = memory.read_with_indices(x);
  for (int64_t t = 0; t < 9; ++t) {
    const MemoryReads one = memory.read_with_indices(x.narrow(0, t, 1));
    EXPECT_TRUE(torch::equal(one.index, all.index.narrow(0, t, 1)));
    EXPECT_TRUE(same_bits(one.output, all.output.narrow(0, t, 1)));
  }
}

TEST(FewLinear, RefusesBadInputInThreeParts) {
  using ::testing::HasSubstr;
  const Inputs in = inputs_of(2, 6, 5);
  EXPECT_THAT(harness::message_of([&] { few_linear(in.x.to(torch::kDouble), in.weight, in.bias); }),
              HasSubstr("few_linear: x, weight and bias must be float32 on CPU, got Double on cpu"));
  EXPECT_THAT(harness::message_of([&] { few_linear(in.x, in.weight.t(), in.bias); }),
              HasSubstr("few_linear: x, weight and bias must be [T, d], [O, d] and [O], got [2, 6], [6, 5] and [5]"));
}

}  // namespace
}  // namespace loci
