// Legend: T tokens, H heads, w width of half a query.
#include "loci/nn/memory/query_reservoir.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include "tests/memory_cases.h"

namespace loci {
namespace {

using at::Tensor;

struct Sampled {
  BuiltMemory<ProductKeyMemory> built = built_memory<ProductKeyMemory>({"sampled", small_memory()}, at::kFloat);
  QueryReservoir reservoir{*built.memory, 5, "layer"};

  // Tokens whose queries are their numbers, in batches of these sizes.
  void tell(int64_t first, const std::vector<int64_t>& batches) {
    for (const int64_t size : batches) {
      const Tensor number = at::arange(first, first + size, at::kFloat).view({size, 1, 1, 1});
      reservoir.reads({{}, {}, {}, {}, {}, number.expand({size, 2, 2, 4})});
      first += size;
    }
  }
  Tensor kept() const {
    return reservoir.queries().slice(0, 0, reservoir.size()).select(3, 3).select(2, 1).select(1, 1);
  }
};

TEST(QueryReservoir, KeepsAllWhileTheyFitAndThenAnEvenSample) {
  constexpr int64_t size = QueryReservoir::kSize;
  Sampled few, many;
  few.tell(0, {100, 50});
  EXPECT_TRUE(torch::equal(few.kept(), at::arange(150, at::kFloat)));
  many.tell(0, {5 * size, 5 * size});
  const Tensor kept = many.kept();
  EXPECT_EQ(kept.numel(), size);
  EXPECT_EQ(std::get<0>(at::_unique(kept)).numel(), size);  // each token once
  // Of every tenth of the tokens about a tenth was kept: 409.6, deviation 19.
  for (int64_t part = 0; part < 10; ++part) {
    EXPECT_NEAR(kept.div(size, "floor").eq(part).sum().item<double>(), 410, 100) << part;
  }
}

TEST(QueryReservoir, DependsOnTheOrderOfTokensAndTheWindowAlone) {
  Sampled whole, cut, resumed, other;
  whole.tell(0, {6000});
  cut.tell(0, {1, 4500, 1499});
  EXPECT_TRUE(torch::equal(whole.kept(), cut.kept()));
  Sampled half;
  half.tell(0, {5000});
  const auto from = half.reservoir.state(), to = resumed.reservoir.state();
  for (size_t i = 0; i < from.size(); ++i) to[i].second.copy_(from[i].second);
  resumed.tell(5000, {1000});
  EXPECT_TRUE(torch::equal(whole.kept(), resumed.kept()));
  other.reservoir.begin(1);
  EXPECT_EQ(other.reservoir.size(), 0);
  other.tell(0, {6000});
  EXPECT_FALSE(torch::equal(whole.kept(), other.kept()));
}

}  // namespace
}  // namespace loci
