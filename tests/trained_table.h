// A small table for the tests of row optimisers, and what backward leaves at it.
//
// Legend: T tokens, K reads of a token, N rows, D width, U distinct rows.
#pragma once

#include <torch/torch.h>

#include <memory>
#include <string>

#include "loci/optim/row_optimizer.h"
#include "loci/table/local_table.h"

namespace loci {

inline constexpr int64_t kRows = 30, kWidth = 5;
inline constexpr RowRule kRules[] = {RowRule::adam, RowRule::adam_row_moment, RowRule::adagrad, RowRule::sgd};

inline TablePtr trained_table(at::ScalarType dtype = at::kFloat, int64_t rows = kRows, int64_t width = kWidth,
                              const std::string& name = "memory") {
  auto table = std::make_shared<LocalTable>(name, rows, width, LocalTableOptions{dtype});
  table->store().initialise_normal(3, 1);
  table->register_use();
  return table;
}

// Leaves exactly `gradient` [U, D] at the rows `row` [U].
inline void leave_gradient(Table& table, const at::Tensor& row, const at::Tensor& gradient) {
  table.store().references().add({row.unsqueeze(1), torch::ones({row.size(0), 1}, gradient.options()), gradient, 0, 0});
}

// A batch of reads with repeated rows, by a seed.
inline void train_reads(Table& table, int64_t seed, int64_t tokens = 12, int64_t reads = 4) {
  torch::manual_seed(seed);
  const auto real = table.sum_dtype();
  const at::Tensor index = torch::randint(0, table.rows(), {tokens, reads}, at::kLong);
  const at::Tensor out = table.read(index, torch::rand({tokens, reads}, real), 0);
  out.backward(torch::randn(out.sizes(), real));
}

}  // namespace loci
