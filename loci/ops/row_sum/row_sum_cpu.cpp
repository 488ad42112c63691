// Legend: M references, S sources, D width, U distinct rows.
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <algorithm>
#include <functional>
#include <memory>
#include <tuple>
#include <vector>

#include "loci/base/cpu_level.h"
#include "loci/ops/row_order/row_order_definition.h"
#include "loci/ops/row_sum/popular_rows.h"
#include "loci/ops/row_sum/row_sum_definition.h"

namespace loci {
namespace {

using at::Tensor;

constexpr int64_t kRowCost = 1;  // references that take as long as writing a sum
constexpr int64_t kCheckGrain = int64_t{1} << 14;

template <class Real>
void sum_row_at(CpuLevel level, const RowSumArguments<Real>& a, int64_t u, const Real* block_sums, Real* sum,
                Real* block) {
  using Function = void(const RowSumArguments<Real>&, int64_t, const Real*, Real*, Real*);
  at_level<Function>(level, base::sum_row, avx2::sum_row, avx512::sum_row)(a, u, block_sums, sum, block);
}

template <class Real>
Tensor row_sum_of(const RowOrder& order, const Tensor& source) {
  const int64_t width = source.size(1), rows = order.row.size(0);
  const int64_t* begin = order.begin.const_data_ptr<int64_t>();
  const int64_t threads = reference_threads(order.source.size(0));
  const RowSumArguments<Real> arguments{begin, order.source.const_data_ptr<int32_t>(),
                                        order.coefficient.const_data_ptr<Real>(), source.const_data_ptr<Real>(), width};
  const CpuLevel level = cpu_level();
  const PopularRows<Real> popular(arguments, rows, level, threads, framework_threads());
  Tensor gradient = at::empty({rows, width}, source.options());
  Real* const out = gradient.mutable_data_ptr<Real>();
  const std::vector<int64_t> task = row_tasks(begin, rows, kRowCost, threads);
  std::vector<std::unique_ptr<Real[]>> block(threads);
  run_tasks(std::ssize(task) - 1, threads, framework_threads(), [&](int64_t thread, int64_t t) {
    if (block[thread] == nullptr) block[thread] = std::make_unique_for_overwrite<Real[]>(width);
    for (int64_t u = task[t]; u < task[t + 1]; ++u) {
      sum_row_at(level, arguments, u, popular.block_sums(u), out + u * width, block[thread].get());
    }
  });
  return gradient;
}

Tensor sum_of_order(const RowOrder& order, const Tensor& source) {
  const RowOrder dense{order.row, order.begin.contiguous(), order.source.contiguous(), order.coefficient.contiguous()};
  return source.scalar_type() == at::kFloat ? row_sum_of<float>(dense, source.contiguous())
                                            : row_sum_of<double>(dense, source.contiguous());
}

std::tuple<Tensor, Tensor> row_sum_cpu(const Tensor& row, const Tensor& coefficient, const Tensor& source_index,
                                       const Tensor& source) {
  check_row_sum(row, coefficient, source_index, source);
  const RowOrder order = order_references_cpu("row_sum", row, coefficient, source_index, source.size(0));
  return {order.row, sum_of_order(order, source)};
}

Tensor order_entry(const Tensor& row, const Tensor& begin, const Tensor& source_index, const Tensor& coefficient,
                   const Tensor& source) {
  const RowOrder order{row, begin, source_index, coefficient};
  check_references_cpu("row_sum", order, source);
  return sum_of_order(order, source);
}

TORCH_LIBRARY_IMPL(loci, CPU, m) {
  m.impl("row_sum", row_sum_cpu);
  m.impl("row_sum.order", order_entry);
}

}  // namespace

void check_references_cpu(const char* who, const RowOrder& order, const Tensor& source) {
  check_references(who, order, source);
  const Tensor begins = order.begin.contiguous(), sources = order.source.contiguous();
  const int64_t* begin = begins.const_data_ptr<int64_t>();
  const int64_t rows = order.row.size(0), size = sources.size(0);
  const int64_t falls = at::parallel_reduce(
      0, rows, kCheckGrain, int64_t{0},
      [&](int64_t first, int64_t last, int64_t count) {
        for (int64_t u = first; u < last; ++u) count += begin[u] >= begin[u + 1];
        return count;
      },
      std::plus<>());
  TORCH_CHECK_INDEX(begin[0] == 0 && begin[rows] == size && falls == 0, who, ": begin must ascend from 0 to ", size,
                    ", got another order");
  const int32_t* index = sources.const_data_ptr<int32_t>();
  const auto larger = [](uint32_t a, uint32_t b) { return std::max(a, b); };  // a negative one is a huge one
  const uint32_t largest = at::parallel_reduce(
      0, size, kCheckGrain, uint32_t{0},
      [&](int64_t first, int64_t last, uint32_t most) {
        for (int64_t m = first; m < last; ++m) most = larger(most, static_cast<uint32_t>(index[m]));
        return most;
      },
      larger);
  TORCH_CHECK_INDEX(size == 0 || int64_t{largest} < source.size(0), who, ": source of references must be within 0 .. ",
                    source.size(0) - 1, ", got ", static_cast<int32_t>(largest));
}

}  // namespace loci
