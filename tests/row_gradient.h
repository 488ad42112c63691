// What backward left at a table.
//
// Legend: N rows, D width.
#pragma once

#include <gtest/gtest.h>
#include <torch/torch.h>

#include "loci/table/row_store.h"
#include "loci/table/table.h"

namespace loci {

// The sum of the pending references as [N, D]. Backward must not have made a gradient of this size.
inline at::Tensor dense_gradient(const Table& table) {
  EXPECT_FALSE(table.store().values().grad().defined());
  const RowGradient sum = table.store().references().sum();
  return torch::zeros({table.rows(), table.width()}, sum.gradient.options()).index_copy_(0, sum.row, sum.gradient);
}

}  // namespace loci
