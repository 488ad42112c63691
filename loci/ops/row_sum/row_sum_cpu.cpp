// Legend: M references, S sources, D width, U distinct rows.
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <memory>
#include <vector>

#include "loci/base/cpu_level.h"
#include "loci/ops/row_order/row_order_definition.h"
#include "loci/ops/row_sum/popular_rows.h"
#include "loci/ops/row_sum/row_sum_definition.h"

namespace loci {
namespace {

using at::Tensor;

constexpr int64_t kSumCost = 1;  // references that take as long as writing a sum

template <class Real>
Tensor order_sum_of(const RowOrder& order, const Tensor& source) {
  const int64_t width = source.size(1), rows = order.row.size(0);
  const int64_t threads = reference_threads(order.source.size(0));
  const RowSumArguments<Real> arguments = sum_arguments<Real>(order, source);
  const CpuLevel level = cpu_level();
  const PopularRows<Real> popular(arguments, rows, level, threads, framework_threads());
  const auto sum_row = row_sum_functions<Real>(level).sum_row;
  Tensor gradient = at::empty({rows, width}, source.options());
  Real* const out = gradient.mutable_data_ptr<Real>();
  const std::vector<int64_t> task = row_tasks(arguments.begin, rows, kSumCost, threads);
  std::vector<std::unique_ptr<Real[]>> block(threads);
  run_tasks(std::ssize(task) - 1, threads, framework_threads(), [&](int64_t thread, int64_t t) {
    if (block[thread] == nullptr) block[thread] = std::make_unique_for_overwrite<Real[]>(width);
    for (int64_t u = task[t]; u < task[t + 1]; ++u) {
      sum_row(arguments, u, popular.block_sums(u), out + u * width, block[thread].get());
    }
  });
  return gradient;
}

Tensor row_sum_cpu(const Tensor& row, const Tensor& begin, const Tensor& source_index, const Tensor& coefficient,
                   const Tensor& source) {
  const RowOrder order{row, begin, source_index, coefficient};
  check_references("row_sum", order, source);
  const auto run = source.scalar_type() == at::kDouble ? order_sum_of<double> : order_sum_of<float>;
  return run(contiguous(order), source.contiguous());
}

TORCH_LIBRARY_IMPL(loci, CPU, m) {
  m.impl("row_sum", row_sum_cpu);
}

}  // namespace
}  // namespace loci
