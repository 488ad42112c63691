// Legend: T tokens, H heads, K top_k, N rows.
#include "loci/ops/usage_add/usage_add.h"

#include <gmock/gmock.h>

#include <cmath>
#include <limits>
#include <vector>

#include "loci/ops/usage_add/usage_add_definition.h"
#include "tests/op_harness.h"

namespace loci::usage_add_test {
namespace {

using at::Tensor;
using testing::HasSubstr;

constexpr auto kMost = static_cast<int32_t>(RowUsage::kMostReads);
constexpr int32_t kHeaviest = std::numeric_limits<int32_t>::min();
constexpr double kNan = std::numeric_limits<double>::quiet_NaN(), kInfinity = std::numeric_limits<double>::infinity();

struct Case {
  Tensor counters, index, weight;
  int64_t window = 0, step = 0;
};

Case make_case(int64_t rows, int64_t tokens, int64_t heads, int64_t top_k) {
  const std::vector<int64_t> sizes = {tokens, heads, top_k};
  // Few distinct weights, so that equals are frequent. One row in four is untouched, the others were touched at steps
  // 0 .. 7, and the window begins at step 4.
  const Tensor touched = torch::randint(1, 9, {rows}, at::kInt) * torch::randint(4, {rows}, at::kInt).gt(0);
  const Tensor counts = torch::randint(100, {rows}, at::kInt) + torch::randint(2, {rows}, at::kInt) * kHeaviest;
  const Tensor counters =
      torch::stack({counts, torch::rand({rows}).view(at::kInt), touched}, 1) * touched.gt(0).unsqueeze(1).to(at::kInt);
  return {counters, torch::randint(std::max<int64_t>(rows, 1), sizes, at::kLong),
          torch::randint(5, sizes).to(at::kFloat) / 7, 4, 8};
}

// The counters after the reads, each column in its own type: counts, weight, touched.
std::vector<Tensor> counted(const Case& c, bool defined = false) {
  const Tensor counters = c.counters.clone();
  (defined ? usage_add_definition : usage_add)(counters, c.index, c.weight, c.window, c.step);
  return {counters.select(1, 0), counters.select(1, 1).view(at::kFloat), counters.select(1, 2)};
}

void expect_the_definition(const Case& c) {
  const auto got = counted(c), expected = counted(c, /*defined=*/true);
  for (size_t i = 0; i < got.size(); ++i) EXPECT_TRUE(harness::same_bits(got[i], expected[i])) << "column " << i;
}

// Counters of N rows from {reads and flag, weight, touched} each.
Tensor counters_of(const std::vector<RowUsage>& rows) {
  const Tensor counters = torch::empty({static_cast<int64_t>(rows.size()), 3}, at::kInt);
  std::copy(rows.begin(), rows.end(), static_cast<RowUsage*>(counters.mutable_data_ptr()));
  return counters;
}

// One token and head.
Case one_group(const std::vector<int64_t>& index, const std::vector<double>& weight, int64_t rows) {
  const auto K = static_cast<int64_t>(index.size());
  return {torch::zeros({rows, 3}, at::kInt), torch::tensor(index, at::kLong).view({1, 1, K}),
          torch::tensor(weight, at::kDouble).to(at::kFloat).view({1, 1, K})};
}

TEST(UsageAdd, EqualsTheDefinitionInEveryBit) {
  torch::manual_seed(1);
  for (const int64_t size : harness::kSizes) {
    for (const auto& [T, H, K] : std::vector<std::array<int64_t, 3>>{{size, 2, 3}, {2, size, 3}, {2, 3, size}}) {
      for (const int64_t rows : {1, 5, 1000}) {
        SCOPED_TRACE(testing::Message() << "T " << T << " H " << H << " K " << K << " N " << rows);
        Case c = make_case(rows, T, H, K);
        expect_the_definition(c);
        const Case awkward{c.counters, harness::strided(c.index), harness::strided(c.weight), c.window, c.step};
        const auto got = counted(awkward), expected = counted(c);
        for (size_t i = 0; i < got.size(); ++i) EXPECT_TRUE(harness::same_bits(got[i], expected[i])) << i;
      }
    }
  }
  expect_the_definition(make_case(0, 0, 2, 3));
  expect_the_definition(make_case(0, 2, 2, 0));
  expect_the_definition(make_case(3000, 500, 4, 32));
}

TEST(UsageAdd, CountsByHand) {
  const auto H = RowUsage::kHeaviest;
  // Row 1 was read in the window, row 2 before it; row 1 is read twice and is the heaviest, row 3 stays.
  Case c = one_group({1, 2, 1}, {0.5, 0.25, 1.0}, 4);
  c.counters = counters_of({{}, {3, 2.0F, 5}, {H | 7, 9.0F, 4}, {H | 1, 1.0F, 2}});
  c.window = 4;
  c.step = 6;
  usage_add(c.counters, c.index, c.weight, c.window, c.step);
  EXPECT_TRUE(torch::equal(c.counters, counters_of({{}, {H | 5, 3.5F, 7}, {1, 0.25F, 7}, {H | 1, 1.0F, 2}})));
}

TEST(UsageAdd, ReadsEndAtTheLargest) {
  const auto H = RowUsage::kHeaviest, most = RowUsage::kMostReads;
  Case c = one_group({0, 1, 2, 2, 2, 0}, {0, 0, 0, 0, 1, 0}, 3);
  c.counters = counters_of({{most, 0, 1}, {H | (most - 1), 0, 1}, {H | (most - 2), 0, 1}});
  expect_the_definition(c);
  EXPECT_TRUE(torch::equal(counted(c)[0], torch::tensor({kMost, kHeaviest | kMost, kHeaviest | kMost}, at::kInt)));
}

TEST(UsageAdd, TheHeaviestIsTheFirstOfEqualsAndNaNIsHeavierThanNothing) {
  const std::vector<std::pair<std::vector<double>, int64_t>> cases = {
      {{1, 2, 2}, 1},
      {{2, 2, 2}, 0},
      {{-3, -1, -2}, 1},
      {{0.0, -0.0, 0.0}, 0},
      {{1, kNan, 2}, 2},
      {{1, kNan, kNan}, 0},
      {{kNan, 5, 6}, 0},
      {{kNan, kInfinity, kNan}, 0},
      {{-kInfinity, kNan, -kInfinity}, 0},
      {{-kInfinity, kNan, 1}, 2},
      {{1, kInfinity, kInfinity}, 1},
      {{kNan, kNan, kNan}, 0},
  };
  for (const auto& [weight, heaviest] : cases) {
    const Case c = one_group({0, 1, 2}, weight, 3);
    SCOPED_TRACE(testing::Message() << c.weight);
    expect_the_definition(c);
    EXPECT_TRUE(torch::equal(counted(c)[0].lt(0).nonzero().view(-1), torch::tensor({heaviest}, at::kLong)));
  }
}

TEST(UsageAdd, HasTheSameBitsForAnyThreadCount) {
  torch::manual_seed(2);
  const Case c = make_case(700, 300, 4, 32);
  harness::expect_same_bits_for_any_thread_count([&] { return counted(c); });
}

TEST(UsageAdd, AnswersOnEveryDevice) {
  torch::manual_seed(3);
  const Case c = make_case(50, 9, 2, 5);
  const auto run = [](const std::vector<Tensor>& x) {
    const Tensor counters = x[0].clone();
    usage_add(counters, x[1], x[2], 4, 8);
    return std::vector<Tensor>{counters.select(1, 0), counters.select(1, 1).view(at::kFloat), counters.select(1, 2)};
  };
  harness::expect_the_same_on_every_device(run, {c.counters, c.index, c.weight});
}

TEST(UsageAdd, WritesInPlaceAndMovesTheVersion) {
  const Case c = one_group({0, 1}, {1, 2}, 2);
  const auto version = c.counters._version();
  const Tensor weight = c.weight.clone().set_requires_grad(true);
  usage_add(c.counters, c.index, weight, 0, 0);
  EXPECT_EQ(c.counters._version(), version + 1);
  EXPECT_TRUE(torch::equal(c.counters.select(1, 2), torch::ones({2}, at::kInt)));
}

TEST(UsageAdd, RefusesWhatItCannotDoInThreePartsAndChangesNothing) {
  const Case c = one_group({0, 1, 2}, {1, 2, 3}, 3);
  const Tensor index = c.index, weight = c.weight;
  const auto message = [&](const Tensor& counters, const Tensor& given, const Tensor& of, int64_t window,
                           int64_t step) {
    return harness::message_of([&] { usage_add(counters, given, of, window, step); });
  };
  const auto of_index = [&](const Tensor& given) { return message(c.counters, given, weight, 0, 0); };
  const auto of_weight = [&](const Tensor& given) { return message(c.counters, index, given, 0, 0); };
  EXPECT_THAT(message(c.counters.to(at::kLong), index, weight, 0, 0),
              HasSubstr("usage_add: counters must be int32 [N, 3], got Long [3, 3]"));
  EXPECT_THAT(message(c.counters.slice(1, 0, 2), index, weight, 0, 0), HasSubstr("got Int [3, 2]"));
  EXPECT_THAT(message(c.counters.t(), index, weight, 0, 0),
              HasSubstr("usage_add: counters must be contiguous, got strides [1, 3]"));
  EXPECT_THAT(of_index(index.to(at::kInt)), HasSubstr("usage_add: index must be int64 [T, H, K], got Int [1, 1, 3]"));
  EXPECT_THAT(of_index(index[0]), HasSubstr("usage_add: index must be int64 [T, H, K], got Long [1, 3]"));
  EXPECT_THAT(of_weight(weight.to(at::kDouble)),
              HasSubstr("usage_add: weight must be float32 [1, 1, 3] like index, got Double [1, 1, 3]"));
  EXPECT_THAT(of_weight(weight.slice(2, 1)), HasSubstr("like index, got Float [1, 1, 2]"));
  EXPECT_THAT(of_weight(weight.to(at::kMeta)),
              HasSubstr("usage_add: index and weight must be on cpu like counters, got cpu and meta"));
  EXPECT_THAT(message(c.counters, index, weight, 2, 1), HasSubstr("window must be within 0 .. step = 1, got 2"));
  EXPECT_THAT(message(c.counters, index, weight, -1, 1), HasSubstr("window must be within 0 .. step = 1, got -1"));
  EXPECT_THAT(message(c.counters, index, weight, 0, kMost),
              HasSubstr("usage_add: step must be below 2^31 - 1, got 2147483647"));
  EXPECT_THAT(of_index(index + 1), HasSubstr("usage_add: index must be within 0 .. 2, got 3"));
  EXPECT_THAT(of_index(index - 1), HasSubstr("usage_add: index must be within 0 .. 2, got -1"));
  EXPECT_THAT(harness::message_of([&] { usage_add_definition(c.counters, index + 1, weight, 0, 0); }),
              HasSubstr("usage_add: index must be within 0 .. 2, got 3"));
  EXPECT_TRUE(torch::equal(c.counters, torch::zeros({3, 3}, at::kInt)));
  EXPECT_EQ(message(c.counters, index, weight, 0, kMost - 1), "");
  EXPECT_TRUE(torch::equal(c.counters.select(1, 2), torch::full({3}, kMost, at::kInt)));
}

}  // namespace
}  // namespace loci::usage_add_test
