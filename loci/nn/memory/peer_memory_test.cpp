// Legend: T tokens, d width.
#include "loci/nn/memory/peer_memory.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include "loci/base/check.h"
#include "loci/table/local_table.h"
#include "loci/table/mapped_table.h"
#include "tests/memory_cases.h"
#include "tests/memory_reference.h"
#include "tests/temporary_folder.h"

namespace loci {
namespace {

using at::Tensor;

TablePtr peer_table(const std::string& name, int64_t rows, int64_t width) {
  auto table = std::make_shared<LocalTable>(name, rows, width, LocalTableOptions{.dtype = at::kDouble});
  table->store().initialise_normal(1, 1);
  return table;
}

TEST(PeerMemory, EqualsTheReferenceWithAllGradients) {
  torch::manual_seed(3);
  const TablePtr down = peer_table("down", 14, 6), up = peer_table("up", 14, 6);
  PeerMemory memory("peer", small_memory(), down, up, 7);
  memory.to(at::kDouble);
  const Tensor x = torch::randn({9, 6}, at::kDouble).requires_grad_(), direction = torch::randn({9, 6}, at::kDouble);
  const Tensor u = down->store().values().detach().clone().requires_grad_();
  const Tensor v = up->store().values().detach().clone().requires_grad_();
  std::vector<Tensor> inputs = memory.parameters();
  inputs.push_back(x);
  auto with_tables = inputs;
  with_tables.insert(with_tables.end(), {u, v});
  const Tensor expected = reference_forward(memory, x, v, u), y = memory.forward(x);
  EXPECT_TRUE(torch::allclose(y, expected, 1e-10, 1e-12));
  const auto truth = torch::autograd::grad({(expected * direction).sum()}, with_tables);
  const auto found = torch::autograd::grad({(y * direction).sum()}, inputs);
  for (size_t i = 0; i < inputs.size(); ++i) EXPECT_TRUE(torch::allclose(found[i], truth[i], 1e-8, 1e-10)) << i;
  const std::vector<std::pair<TablePtr, Tensor>> tables = {{down, truth[inputs.size()]},
                                                           {up, truth[inputs.size() + 1]}};
  for (const auto& [table, gradient] : tables) {
    const RowGradient sum = table->store().references().sum();
    const Tensor dense = at::zeros({14, 6}, at::kDouble).index_copy_(0, sum.row, sum.gradient);
    EXPECT_TRUE(torch::allclose(dense, gradient, 1e-9, 1e-11));
  }
}

TEST(PeerMemory, FetchesTheRowsOfBothTablesFromTheirFiles) {
  const TemporaryFolder folder;
  const auto down = std::make_shared<MappedTable>("down", 14, 6, at::kFloat, folder.path());
  const auto up = std::make_shared<MappedTable>("up", 14, 6, at::kFloat, folder.path());
  PeerMemory memory("peer", small_memory(), down, up, 7);
  memory.forward(torch::randn({9, 6}));
  EXPECT_EQ(down->store().fetched().calls, 1);
  EXPECT_EQ(up->store().fetched().calls, 1);
}

TEST(PeerMemory, TrainsWhenEitherTableIsFrozen) {
  for (const bool down_frozen : {true, false}) {
    torch::manual_seed(3);
    const TablePtr down = peer_table("down", 14, 6), up = peer_table("up", 14, 6);
    PeerMemory memory("peer", small_memory(), down, up, 7);
    memory.to(at::kDouble);
    (down_frozen ? down : up)->set_frozen(true);
    const Tensor x = torch::randn({9, 6}, at::kDouble).requires_grad_();
    const Tensor u = down->store().values().detach(), v = up->store().values().detach();
    std::vector<Tensor> inputs = memory.parameters();
    inputs.push_back(x);
    const auto truth = torch::autograd::grad({reference_forward(memory, x, v, u).square().sum()}, inputs);
    const auto found = torch::autograd::grad({memory.forward(x).square().sum()}, inputs);
    for (size_t i = 0; i < inputs.size(); ++i) EXPECT_TRUE(torch::allclose(found[i], truth[i], 1e-8, 1e-10)) << i;
    EXPECT_EQ(down->store().references().empty(), down_frozen);
    EXPECT_EQ(up->store().references().empty(), !down_frozen);
  }
}

TEST(PeerMemory, WithoutGradientLeavesNoReferences) {
  const TablePtr down = peer_table("down", 14, 6), up = peer_table("up", 14, 6);
  PeerMemory memory("peer", small_memory(), down, up, 7);
  memory.to(at::kDouble);
  const torch::NoGradGuard guard;
  memory.forward(torch::randn({9, 6}, at::kDouble));
  EXPECT_TRUE(down->store().references().empty());
  EXPECT_TRUE(up->store().references().empty());
}

TEST(PeerMemory, TablesThatDoNotFitAreRefused) {
  const TablePtr up = peer_table("up", 14, 6);
  EXPECT_THROW(PeerMemory("peer", small_memory(), nullptr, up, 7), Error);
  EXPECT_THROW(PeerMemory("peer", small_memory(), peer_table("down", 13, 6), up, 7), Error);
  EXPECT_THROW(PeerMemory("peer", small_memory(), peer_table("down", 14, 5), up, 7), Error);
}

}  // namespace
}  // namespace loci
