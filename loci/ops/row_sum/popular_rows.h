// Rows with so many references that one thread should not sum them alone: their blocks are summed first, by all
// threads. Bits do not change, for a row's sum is that of its block sums either way. Torch-free.
//
// Legend: M references, U distinct rows, D width, B blocks of at most 128 references.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "loci/base/cpu_level.h"
#include "loci/ops/row_order/row_order_sort.h"
#include "loci/ops/row_sum/row_sum_kernel.h"

namespace loci {

template <class Real>
class PopularRows {
 public:
  // Room for M / 128 + one block a row at most, and none where no row is popular.
  PopularRows(const RowSumArguments<Real>& references, int64_t rows, CpuLevel level, int64_t threads,
              const RunParts& run);
  bool empty() const { return row_.empty(); }
  // The block sums of row u, or null.
  const Real* block_sums(int64_t u) const;

 private:
  std::vector<int64_t> row_;     // u of each, ascending
  std::vector<int64_t> block_;   // its first block
  std::unique_ptr<Real[]> sum_;  // [B, D]
  int64_t width_;
};

extern template class PopularRows<float>;
extern template class PopularRows<double>;

// Tasks of similar cost over rows 0 .. rows-1, that threads take as they come: where each begins, and the end.
// A row costs as much as `row_cost` references.
std::vector<int64_t> row_tasks(const int64_t* begin, int64_t rows, int64_t row_cost, int64_t threads);

// Runs work(thread, task) for tasks 0 .. tasks-1, each once, by `threads` threads.
void run_tasks(int64_t tasks, int64_t threads, const RunParts& run,
               const std::function<void(int64_t thread, int64_t task)>& work);

}  // namespace loci
