// Legend: T tokens, H heads, K top_k, n1, n2 sub-keys of the halves.
#include "loci/nn/memory/sub_key_counts.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <algorithm>
#include <array>
#include <numeric>

#include "tests/memory_cases.h"

namespace loci {
namespace {

// 14 rows have 4 x 4 sub-keys.
TEST(SubKeyCounts, CountsBothHalvesOfEveryPairThatTheSearchFinds) {
  for (const char* name : {"default", "modulo", "offset"}) {
    const std::vector<MemoryCase> cases = memory_cases();
    const auto found = std::find_if(cases.begin(), cases.end(), [&](const MemoryCase& c) { return c.name == name; });
    const auto [table, memory] = built_memory<ProductKeyMemory>(*found);
    const auto counts = std::make_shared<SubKeyCounts>(*memory);
    const ObserverScope counting(*memory, counts);
    const at::Tensor x = torch::randn({37, 6}, at::kDouble);
    const at::Tensor address = memory->read_with_indices(x).address;  // [T, H, K]
    memory->forward(x);
    for (int64_t h = 0; h < 2; ++h) {
      const at::Tensor of_head = address.select(1, h).reshape(-1);
      const std::array<at::Tensor, 2> half = {of_head.div(4, "floor"), of_head.remainder(4)};
      for (int64_t p = 0; p < 2; ++p) {
        const at::Tensor expected = 2 * at::bincount(half[static_cast<size_t>(p)], {}, 4);
        const auto got = counts->of(h, p);
        EXPECT_EQ(std::vector<int64_t>(got.begin(), got.end()),
                  std::vector<int64_t>(expected.const_data_ptr<int64_t>(), expected.const_data_ptr<int64_t>() + 4))
            << name << " " << h << " " << p;
        EXPECT_EQ(std::accumulate(got.begin(), got.end(), int64_t{0}), 2 * 37 * memory->options().top_k);
      }
    }
  }
}

TEST(SubKeyCounts, EveryPairFallsOnItsSubKeysWhateverTheirNumber) {
  for (const int64_t rows : {1, 2, 3, 50, 65'536, 3'000'017}) {
    const ProductKeyMemory memory("memory", small_memory([](auto& o) {
                                    o.width = 1, o.key_width = 2, o.top_k = 1, o.weight = WeightFunction::sigmoid;
                                  }),
                                  std::make_shared<LocalTable>("values", rows, 1), 7);
    SubKeyCounts counts(memory);
    const int64_t n2 = memory.sub_keys2(), pairs = memory.sub_keys1() * n2;
    torch::manual_seed(1);
    at::Tensor address = torch::randint(pairs, {500, 2, 3}, at::kLong);
    address[0].fill_(pairs - 1);
    address[1].fill_(pairs - pairs / n2 % n2 - 1);
    counts.reads({{}, {}, address, {}, address, {}});
    for (int64_t h = 0; h < 2; ++h) {
      std::vector<int64_t> first(static_cast<size_t>(memory.sub_keys1())), second(static_cast<size_t>(n2));
      const at::Tensor of_head = address.select(1, h).reshape(-1);
      for (int64_t i = 0; i < of_head.numel(); ++i) {
        const auto pair = of_head.const_data_ptr<int64_t>()[i];
        ++first[static_cast<size_t>(pair / n2)];
        ++second[static_cast<size_t>(pair % n2)];
      }
      EXPECT_TRUE(std::ranges::equal(counts.of(h, 0), first)) << rows;
      EXPECT_TRUE(std::ranges::equal(counts.of(h, 1), second)) << rows;
    }
  }
}

TEST(SubKeyCounts, SharesOfLiveSubKeysOnAHandCase) {
  const auto [table, memory] = built_memory<ProductKeyMemory>({"counted", small_memory()});
  SubKeyCounts counts(*memory);
  EXPECT_EQ(alive_share(counts), 1);  // nothing was read: nothing is known to be dead
  // The mean of a half is 100. Below 10 is dead.
  const at::Tensor half = torch::tensor({391, 0, 9, 0}, at::kLong),
                   even = torch::tensor({100, 100, 190, 10}, at::kLong);
  counts.state().select(0, 0).slice(0, 0, 4).copy_(half);
  counts.state().select(0, 0).slice(0, 4, 8).copy_(even);
  EXPECT_EQ(alive_share(counts), 13.0 / 16);
  counts.clear();
  EXPECT_EQ(counts.state().sum().item<int64_t>(), 0);
}

TEST(SubKeyCounts, RefusesWhatNoSearchFinds) {
  const auto [table, memory] = built_memory<ProductKeyMemory>({"counted", small_memory()});
  SubKeyCounts counts(*memory);
  const auto tell = [&](const at::Tensor& address) { counts.reads({{}, {}, address, {}, address, {}}); };
  EXPECT_THROW(tell(torch::full({1, 2, 1}, 16, at::kLong)), c10::Error);
  EXPECT_THROW(tell(torch::full({1, 2, 1}, -1, at::kLong)), c10::Error);
  EXPECT_THROW(tell(torch::zeros({1, 3, 1}, at::kLong)), c10::Error);
}

}  // namespace
}  // namespace loci
