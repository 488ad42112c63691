// Sparse memory finetuning: a memory learns one new batch by its most unusual rows alone. All other rows keep their
// bits, and what changed is a small file that another copy of the table can take.
#include <torch/torch.h>

#include <cstdio>
#include <filesystem>
#include <memory>
#include <vector>

#include "loci/nn/memory/product_key_memory.h"
#include "loci/optim/row_optimizer.h"
#include "loci/table/local_table.h"
#include "loci/table/read_background.h"
#include "loci/table/row_patch.h"

namespace {

template <class Byte>
loci::RowBytes<Byte> bytes_of(const at::Tensor& rows) {
  auto* const data = static_cast<Byte*>(rows.mutable_data_ptr());
  return {"facts", loci::DType::F32, rows.size(0), rows.size(1), {data, rows.nbytes()}};
}

}  // namespace

int main() {
  torch::manual_seed(0);
  constexpr int64_t kRows = 4096, kWidth = 32;
  const auto table = std::make_shared<loci::LocalTable>("facts", kRows, kWidth);
  table->store().initialise_normal(/*seed=*/1, /*std=*/0.2);
  loci::ProductKeyMemoryOptions options;
  options.width = kWidth;
  loci::ProductKeyMemory memory("memory", options, table, /*seed=*/1);
  const at::Tensor before = table->store().values().detach().clone();

  // The snippet of docs/product-key-memory.md begins here.
  // Which rows ordinary text reads.
  const auto background = std::make_shared<loci::ReadBackground>(table->rows());
  {
    const torch::NoGradGuard no_gradient;
    const loci::ObserverScope watching(memory, background);
    for (int batch = 0; batch < 50; ++batch) memory.forward(torch::randn({256, kWidth}));
  }

  // The rows that the new batch reads more than usual, which alone are trained.
  const at::Tensor x = torch::randn({8, kWidth}) + 2 * torch::randn({kWidth}), target = torch::randn({8, kWidth});
  const at::Tensor index = memory.read_with_indices(x).index.contiguous();
  const std::vector<int64_t> rows =
      background->unusual_rows({index.const_data_ptr<int64_t>(), static_cast<size_t>(index.numel())}, /*most=*/100);
  table->set_trained_rows(torch::zeros({kRows}, torch::kBool).index_fill(0, torch::tensor(rows), true));
  loci::RowOptimizer optimizer(table->store(), {.rule = loci::RowRule::sgd, .learning_rate = 20}, /*seed=*/1);
  for (int step = 0; step < 200; ++step) {
    torch::mse_loss(memory.forward(x), target).backward();
    optimizer.step();
  }

  // What changed, as a file for other copies of the table.
  const at::Tensor after = table->store().values().detach();
  loci::write_row_patch("facts.patch", bytes_of<const std::byte>(before), bytes_of<const std::byte>(after));
  // The snippet ends here.

  const int64_t changed = (before != after).any(1).sum().item<int64_t>();
  const at::Tensor copy = before.clone();
  const int64_t applied = loci::apply_row_patch("facts.patch", bytes_of<std::byte>(copy));
  std::filesystem::remove("facts.patch");
  const torch::NoGradGuard no_gradient;
  const double error = torch::mse_loss(memory.forward(x), target).item<double>();
  std::printf("%ld of %ld rows changed; error %.4f\n", static_cast<long>(changed), static_cast<long>(kRows), error);
  return changed > 0 && changed <= 100 && applied == changed && torch::equal(copy, after) ? 0 : 1;
}
