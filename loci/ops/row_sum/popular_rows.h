// Rows with so many references that one thread should not sum them alone: their blocks are summed first, by all
// threads. This does not change the bits: a row's sum is the sum of its block sums either way. Torch-free.
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
const RowSumFunctions<Real>& row_sum_functions(CpuLevel level);

template <class Real>
class PopularRows {
 public:
  // Sums the blocks of popular rows. With one thread no row is popular.
  PopularRows(const RowSumArguments<Real>& references, int64_t rows, CpuLevel level, int64_t threads,
              const RunParts& run);
  bool empty() const { return row_.empty(); }
  // The block sums of row u, or null.
  const Real* block_sums(int64_t u) const;

 private:
  std::vector<int64_t> row_;     // u of each popular row, ascending
  std::vector<int64_t> block_;   // its first block
  std::unique_ptr<Real[]> sum_;  // [B, D]
  int64_t width_;
};

extern template class PopularRows<float>;
extern template class PopularRows<double>;

// Cuts rows 0 .. rows-1 into tasks of similar cost. Returns the first row of each task, then `rows`. A row costs as
// much as `row_cost` references.
std::vector<int64_t> row_tasks(const int64_t* begin, int64_t rows, int64_t row_cost, int64_t threads);

// Runs work(thread, task) once for each of the tasks 0 .. tasks-1. Each of `threads` threads takes the next task that
// is left.
void run_tasks(int64_t tasks, int64_t threads, const RunParts& run,
               const std::function<void(int64_t thread, int64_t task)>& work);

}  // namespace loci
