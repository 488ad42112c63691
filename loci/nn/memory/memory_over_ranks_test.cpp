// A memory layer of which each rank has some of the tokens and some of the rows.
//
// Legend: T tokens, d width, P ranks.
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <memory>
#include <vector>

#include "loci/nn/memory/flat_key_memory.h"
#include "loci/nn/memory/peer_memory.h"
#include "loci/nn/memory/sub_key_counts.h"
#include "tests/memory_cases.h"
#include "tests/ranks.h"
#include "tests/sharded_rows.h"

namespace loci::memory_over_ranks_test {
namespace {

using at::Tensor;

constexpr int64_t kTableRows = 14, kLayerWidth = 6, kAllTokens = 40;

// In double: at float's rounding a search may find another row.
template <class Memory>
std::shared_ptr<Memory> layer_on(TablePtr table, QueryNorm norm) {
  const auto options = small_memory([&](auto& o) { o.query_norm = norm; });
  auto memory = std::make_shared<Memory>("memory", options, std::move(table), 7);
  memory->to(at::kDouble);
  const torch::NoGradGuard guard;
  int64_t number = 0;
  for (auto& parameter : memory->parameters()) {
    const Tensor away = torch::arange(parameter.numel(), at::kDouble).view(parameter.sizes());
    parameter.add_((away * 0.7 + static_cast<double>(++number)).sin() * 0.3);
  }
  return memory;
}

TablePtr whole_table() {
  auto table = std::make_shared<LocalTable>("memory", kTableRows, kLayerWidth, LocalTableOptions{at::kDouble});
  table->store().initialise_normal(3, 1);
  return table;
}

struct Result {
  Tensor y, dx;
  std::vector<Tensor> gradients, buffers;
  double distance = 0;
};

// The tokens of `mask` count.
template <class Memory>
Result step_of(Memory& memory, const Tensor& x, const Tensor& grad, const Tensor& mask) {
  const Tensor in = x.clone().requires_grad_();
  const Tensor y = memory.forward(in, {.token_mask = mask, .generator = {}});
  y.backward(grad);
  Result result = {y.detach(), in.grad(), {}, memory.buffers(), memory.mean_distance()};
  for (const Tensor& parameter : memory.parameters()) result.gradients.push_back(parameter.grad());
  return result;
}

void expect_close(const Tensor& got, const Tensor& expected) {
  EXPECT_TRUE(torch::allclose(got, expected, 1e-9, 1e-10)) << got << "\n" << expected;
}

template <class Memory>
void expect_the_step_of_one_process(QueryNorm norm, const std::vector<int64_t>& first) {
  torch::manual_seed(3);
  const Tensor x = torch::randn({kAllTokens, kLayerWidth}, at::kDouble), grad = torch::randn_like(x);
  const Tensor mask = torch::rand({kAllTokens}).lt(0.8);
  const auto one = layer_on<Memory>(whole_table(), norm);
  const Result expected = step_of(*one, x, grad, mask);

  const auto size = static_cast<size_t>(std::ssize(first) - 1);
  std::vector<Result> got(size);
  run_ranks(static_cast<int64_t>(size), [&](const Ranks& ranks) {
    const auto p = static_cast<size_t>(ranks.rank);
    const auto part = [&](const Tensor& t) { return t.slice(0, first[p], first[p + 1]); };
    const auto table = make_sharded(ranks, kTableRows, kLayerWidth, at::kDouble);
    const auto memory = layer_on<Memory>(table, norm);
    torch::nn::Sequential network(memory);
    set_ranks(*network, ranks);
    got[p] = step_of(*memory, part(x), part(grad), part(mask));
  });
  std::vector<Tensor> y, dx;
  for (const Result& result : got) {
    y.push_back(result.y);
    dx.push_back(result.dx);
    for (size_t i = 0; i < expected.buffers.size(); ++i) {
      expect_close(result.buffers[i], expected.buffers[i]);
      EXPECT_TRUE(torch::equal(result.buffers[i], got[0].buffers[i]));
    }
    if (!keeps_constant(norm)) {
      EXPECT_NEAR(result.distance, expected.distance, 1e-9);
    }
  }
  expect_close(torch::cat(y), expected.y);
  expect_close(torch::cat(dx), expected.dx);
  for (size_t i = 0; i < expected.gradients.size(); ++i) {
    Tensor sum = torch::zeros_like(expected.gradients[i]);
    for (const Result& result : got) sum += result.gradients[i];
    expect_close(sum, expected.gradients[i]);
  }
}

TEST(MemoryOverRanks, TakesTheStepOfOneProcess) {
  for (const QueryNorm norm : {QueryNorm::batch, QueryNorm::center, QueryNorm::layer}) {
    for (const std::vector<int64_t>& first :
         {std::vector<int64_t>{0, 13, 40}, {0, 40, 40}, {0, 7, 7, 40}, {0, 1, 30, 40}}) {
      expect_the_step_of_one_process<ProductKeyMemory>(norm, first);
      expect_the_step_of_one_process<FlatKeyMemory>(norm, first);
    }
  }
}

TEST(MemoryOverRanks, EvaluationNeedsNoOtherRank) {
  const auto memory = layer_on<ProductKeyMemory>(whole_table(), QueryNorm::batch);
  memory->eval();
  const Tensor x = torch::randn({4, kLayerWidth}, at::kDouble);
  const Tensor expected = memory->query(x);
  memory->set_ranks({"nobody", 0, 2});
  EXPECT_TRUE(torch::equal(memory->query(x), expected));
}

TEST(MemoryOverRanks, SubKeyCountsAreMerged) {
  const auto memory = layer_on<ProductKeyMemory>(whole_table(), QueryNorm::layer);
  const Tensor address = torch::randint(0, 14, {30, 2, 3}, at::kLong);
  SubKeyCounts all(*memory);
  const auto reads = [](const Tensor& of) { return MemoryReads{{}, {}, of, {}, of, {}}; };
  all.reads(reads(address));
  run_ranks(3, [&](const Ranks& ranks) {
    SubKeyCounts mine(*memory);
    mine.reads(reads(slice(address, ranks, /*idle=*/true)));
    const Tensor before = mine.state().clone();
    EXPECT_TRUE(torch::equal(mine.merged(ranks).state(), all.state()));
    EXPECT_TRUE(torch::equal(mine.state(), before));
  });
}

}  // namespace
}  // namespace loci::memory_over_ranks_test
