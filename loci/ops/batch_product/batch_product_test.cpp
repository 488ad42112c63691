#include "loci/ops/batch_product/batch_product.h"

#include <gmock/gmock.h>

#include "loci/ops/batch_product/batch_product_definition.h"
#include "tests/op_harness.h"

// Legend: B batch, N rows, K summed, M columns.

namespace loci::batch_product_test {
namespace {

using harness::same_bits;
using harness::strided;
using ::testing::HasSubstr;
using torch::Tensor;

TEST(BatchProduct, KeepsTheErrorRuleForAllSizesAndLayouts) {
  torch::manual_seed(0);
  for (const auto type : {torch::kFloat, torch::kBFloat16}) {
    for (const int64_t B : {0, 1, 3}) {
      for (const int64_t N : {0, 1, 31, 130, 300}) {
        for (const int64_t K : {0, 1, 17, 200}) {
          for (const int64_t M : {0, 1, 33}) {
            SCOPED_TRACE(::testing::Message() << type << " B " << B << " N " << N << " K " << K << " M " << M);
            const Tensor a = torch::randn({B, N, K}, type), b = torch::randn({B, K, M}, type);
            const Tensor exact = torch::bmm(a.to(torch::kDouble), b.to(torch::kDouble)) * 0.5;
            const Tensor definition = batch_product_definition(a, b, 0.5), fast = batch_product(a, b, 0.5);
            harness::expect_error_rule(fast, definition, exact);
            EXPECT_TRUE(fast.is_contiguous());
            EXPECT_TRUE(same_bits(batch_product(strided(a), strided(b), 0.5), fast));
            const Tensor a_t = a.transpose(1, 2).contiguous().transpose(1, 2);
            const Tensor b_t = b.transpose(1, 2).contiguous().transpose(1, 2);
            harness::expect_error_rule(batch_product(a_t, b_t, 0.5), definition, exact);
          }
        }
      }
    }
  }
}

TEST(BatchProduct, HasTheSameBitsForAnyThreadCount) {
  torch::manual_seed(1);
  for (const auto& [B, N, K, M] :
       std::vector<std::array<int64_t, 4>>{{1, 16, 4000, 16}, {1, 256, 3136, 256}, {3, 300, 70, 50}, {40, 9, 8, 7}}) {
    const Tensor a = torch::randn({B, K, N}).transpose(1, 2), b = torch::randn({B, K, M});
    harness::expect_same_bits_for_any_thread_count([&]() -> std::vector<Tensor> { return {batch_product(a, b)}; });
  }
}

TEST(BatchProduct, IsTheProductInDouble) {
  torch::manual_seed(3);
  const Tensor a = torch::randn({3, 300, 200}, torch::kDouble), b = torch::randn({3, 200, 33}, torch::kDouble);
  EXPECT_TRUE(torch::allclose(batch_product(a, b, 0.5), torch::bmm(a, b) * 0.5, 1e-12, 1e-12));
}

TEST(BatchProduct, HasItsGradientAndAnswersOnEveryDevice) {
  torch::manual_seed(2);
  const Tensor a = torch::randn({2, 3, 4}, torch::kDouble).requires_grad_();
  const Tensor b = torch::randn({2, 4, 5}, torch::kDouble).requires_grad_();
  harness::expect_finite_differences([](const std::vector<Tensor>& x) { return batch_product(x[0], x[1], 0.3); },
                                     {a, b});
  harness::expect_the_same_on_every_device(
      [](const std::vector<Tensor>& x) -> std::vector<Tensor> { return {batch_product(x[0], x[1], 2)}; },
      {torch::randn({2, 3, 4}), torch::randn({2, 4, 5})});
}

TEST(BatchProduct, RefusesBadInputInThreeParts) {
  const auto message = [](const Tensor& a, const Tensor& b) {
    return harness::message_of([&] { batch_product(a, b); });
  };
  const Tensor a = torch::zeros({2, 3, 4}), b = torch::zeros({2, 4, 5});
  EXPECT_THAT(message(a[0], b),
              HasSubstr("batch_product: a must be [B, N, K] of a floating type, got [3, 4] of Float"));
  EXPECT_THAT(message(a.to(torch::kInt), b), HasSubstr("got [2, 3, 4] of Int"));
  EXPECT_THAT(message(a, b.to(torch::kDouble)),
              HasSubstr("batch_product: b must be Float on cpu like a, got Double on cpu"));
  EXPECT_THAT(message(a, b.transpose(1, 2)), HasSubstr("batch_product: b must be [2, 4, M], got [2, 5, 4]"));
}

}  // namespace
}  // namespace loci::batch_product_test
