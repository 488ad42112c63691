// Legend: T tokens, K reads of a token, M references, U distinct rows.
#include "loci/ops/row_order/row_order.h"

#include <gmock/gmock.h>

#include <limits>

#include "loci/ops/row_order/row_order_definition.h"
#include "tests/op_harness.h"

namespace loci::row_order_test {
namespace {

using at::Tensor;
using ::testing::HasSubstr;

struct Reads {
  std::vector<Tensor> index, weight;
};

Reads make_reads(const std::vector<std::pair<int64_t, int64_t>>& sizes, int64_t rows, at::ScalarType dtype) {
  Reads reads;
  for (const auto& [T, K] : sizes) {
    reads.index.push_back(torch::randint(rows, {T, K}, at::kLong));
    reads.weight.push_back(torch::randn({T, K}, dtype));
    if (T * K > 3) reads.weight.back().view(-1)[T * K / 2] = 0;
  }
  return reads;
}

std::vector<Tensor> parts(const RowOrder& order) {
  return {order.row, order.begin, order.source, order.coefficient};
}

void expect_same(const RowOrder& got, const RowOrder& wanted) {
  const auto a = parts(got), b = parts(wanted);
  for (size_t i = 0; i < a.size(); ++i) EXPECT_TRUE(harness::same_bits(a[i], b[i])) << i;
}

TEST(RowOrder, EqualsItsDefinition) {
  torch::manual_seed(1);
  for (const auto dtype : {at::kFloat, at::kDouble}) {
    for (const int64_t rows : {int64_t{1}, int64_t{50}, int64_t{70'000}, int64_t{2'000'000}, int64_t{1} << 40}) {
      for (const auto& sizes : std::vector<std::vector<std::pair<int64_t, int64_t>>>{
               {{40, 8}}, {{0, 4}}, {{5, 0}}, {{0, 0}}, {{1, 1}}, {{33, 7}, {0, 3}, {20, 1}, {9, 17}}, {{3000, 16}}}) {
        const Reads reads = make_reads(sizes, rows, dtype);
        expect_same(row_order(reads.index, reads.weight), row_order_definition(reads.index, reads.weight));
      }
    }
  }
  Reads skewed = make_reads({{3000, 16}}, 60'000, at::kFloat);
  skewed.index[0].narrow(0, 100, 2500).remainder_(3);
  expect_same(row_order(skewed.index, skewed.weight), row_order_definition(skewed.index, skewed.weight));
  const Reads reads = make_reads({{30, 6}}, 9, at::kFloat);
  expect_same(row_order({harness::strided(reads.index[0])}, {harness::strided(reads.weight[0])}),
              row_order_definition(reads.index, reads.weight));
}

TEST(RowOrder, HasTheSameBitsForAnyThreadCount) {
  torch::manual_seed(2);
  for (const int64_t rows : {300, 200'000, 3'000'000}) {
    const Reads reads = make_reads({{2000, 12}, {900, 30}}, rows, at::kFloat);
    harness::expect_same_bits_for_any_thread_count([&] { return parts(row_order(reads.index, reads.weight)); });
  }
}

TEST(RowOrder, KeepsNaNAndDropsZeroWeights) {
  const Tensor index = torch::tensor({{3, 1}, {2, 1}}, at::kLong);
  const Tensor weight = torch::tensor({{0.0F, -0.0F}, {std::numeric_limits<float>::quiet_NaN(), 2.0F}});
  for (const RowOrder& order : {row_order({index}, {weight}), row_order_definition({index}, {weight})}) {
    EXPECT_TRUE(torch::equal(order.row, torch::tensor({1, 2}, at::kLong)));
    EXPECT_TRUE(torch::equal(order.begin, torch::tensor({0, 1, 2}, at::kLong)));
    EXPECT_TRUE(torch::equal(order.source, torch::tensor({1, 1}, at::kInt)));
  }
}

TEST(RowOrder, FastPathAndDefinitionRefuseTheSameBadInput) {
  const Reads good = make_reads({{4, 3}}, 9, at::kFloat);
  const auto expect_refused = [](std::vector<Tensor> index, std::vector<Tensor> weight, const std::string& message) {
    EXPECT_THAT(harness::message_of([&] { row_order(index, weight); }), HasSubstr(message));
    EXPECT_THAT(harness::message_of([&] { row_order_definition(index, weight); }), HasSubstr(message));
  };
  expect_refused({good.index[0].to(at::kInt)}, good.weight, "row_order: index must be int64, got Int");
  expect_refused({good.index[0][0]}, good.weight, "row_order: index must be [T, K], got [3]");
  expect_refused(good.index, {good.weight[0].t()}, "weight must be [4, 3] like index, got [3, 4]");
  expect_refused(good.index, {good.weight[0].to(at::kHalf)}, "weight must be float32 or float64, got Half");
  expect_refused({good.index[0], good.index[0]}, good.weight, "lists of one length, at least 1, got 2 and 1");
  const Tensor negative = good.index[0].index_fill(0, torch::tensor({2}), -7);
  expect_refused({negative}, good.weight, "row_order: row must be at least 0, got -7");
  expect_refused({negative}, {torch::zeros({4, 3})}, "row_order: row must be at least 0, got -7");  // all are dropped
}

}  // namespace
}  // namespace loci::row_order_test
