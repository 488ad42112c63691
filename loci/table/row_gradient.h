// The gradient of a table as row references: small, and nothing table-shaped ever exists.
//
// Legend: T tokens, K reads of a token, D width, U distinct rows, S tokens of all references.
#pragma once

#include <ATen/core/Tensor.h>

#include <array>
#include <cstdint>
#include <mutex>
#include <string>
#include <vector>

#include "loci/ops/row_order/row_order.h"

namespace loci {

// What one backward pass of one layer adds: row index[t, r] gains weight[t, r] * grad[t]. The tensors are those of the
// pass, no copies: they keep their values until the step.
struct RowReferences {
  at::Tensor index;   // [T, K] int64, counted from the first row of the store
  at::Tensor weight;  // [T, K] float32 or float64; exactly 0: the row is not touched
  at::Tensor grad;    // [T, D] in weight's dtype
  int64_t pass = 0;   // number of the layer's pass since the last step (micro-batches)
  int64_t use = 0;    // number of the layer
};

// Summed: rows ascending and distinct.
struct RowGradient {
  at::Tensor row;       // [U] int64
  at::Tensor gradient;  // [U, D] float32 or float64
};

// The version counter of a tensor: how often it was written in place. 0 for an inference tensor, which has none.
int64_t version_of(const at::Tensor& tensor);

// Not summed yet: the references by row, for code that sums and updates in one pass.
struct OrderedReferences {
  RowOrder order;
  at::Tensor source;  // [S, D] the grads of the references, one after the other
};

// References since the last step. Sums are made in the order (pass, use, position), whatever order they arrived in.
// Safe from several threads; where two threads run passes of one layer at the same time, which of them counts as the
// first is up to them. ordered() and sum() throw c10::Error when a tensor was written in place after add().
class PendingReferences {
 public:
  PendingReferences(std::string table, int64_t width) : table_(std::move(table)), width_(width) {}

  int64_t register_use();             // Table::register_use
  void check_use(int64_t use) const;  // throws Error (bug) for a number that register_use() did not give
  int64_t next_pass(int64_t use);     // 0, 1, 2 ... since clear()

  // Later references to rows whose mask [R] bool is false are dropped. Undefined: none is.
  void set_trained_rows(const at::Tensor& mask);
  at::Tensor trained_rows() const;  // the mask
  void add(RowReferences references);
  bool empty() const;
  OrderedReferences ordered() const;
  RowGradient sum() const;
  void clear();  // after a step

 private:
  struct Added {
    RowReferences references;
    std::array<int64_t, 3> versions;  // of index, weight and grad
  };

  std::string table_;
  int64_t width_;
  mutable std::mutex mutex_;  // of all below
  at::Tensor trained_rows_;
  std::vector<int64_t> passes_;  // of each use
  std::vector<Added> added_;
};

}  // namespace loci
