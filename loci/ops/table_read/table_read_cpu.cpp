#include "loci/ops/table_read/table_read_cpu.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <algorithm>

#include "loci/ops/table_read/table_read_definition.h"
#include "loci/ops/table_read/table_read_kernel.h"

// Legend: T tokens, K reads of a token, N rows, D width.

namespace loci {

using at::Tensor;

namespace {

const TableReadKernel& kernel_of(CpuLevel level) {
  switch (level) {
    case CpuLevel::base:
      return base::table_read_kernel;
    case CpuLevel::avx2:
      return avx2::table_read_kernel;
    case CpuLevel::avx512:
      return avx512::table_read_kernel;
  }
  __builtin_unreachable();
}

const TableReadKernel::OfRows& functions_of(at::ScalarType type, CpuLevel level) {
  const TableReadKernel& kernel = kernel_of(level);
  switch (type) {
    case at::kDouble:
      return kernel.float64;
    case at::kFloat:
      return kernel.float32;
    case at::kBFloat16:
      return kernel.bfloat16;
    default:
      return kernel.float16;  // the checks let no other type pass
  }
}

void check_range(const char* who, const Tensor& table, const Tensor& index) {
  const auto N = static_cast<uint64_t>(table.size(0));
  const int64_t* at = index.const_data_ptr<int64_t>();
  for (int64_t p = 0; p < index.numel(); ++p) {
    if (static_cast<uint64_t>(at[p]) >= N) fail_index(who, table.size(0), at[p]);
  }
}

void run(TableReadFunction function, const Tensor& table, const Tensor& index, const Tensor& factor, Tensor& out) {
  const TableReadArguments arguments{table.const_data_ptr(),          table.stride(0), table.size(1),
                                     index.const_data_ptr<int64_t>(), index.size(0),   index.size(1),
                                     factor.const_data_ptr(),         out.data_ptr()};
  // About 64 thousand elements are worth a thread.
  const int64_t work = std::max<int64_t>(1, index.size(1) * table.size(1));
  at::parallel_for(0, index.size(0), std::max<int64_t>(1, 65536 / work),
                   [&](int64_t first, int64_t last) { function(arguments, first, last); });
}

bool rows_are_dense(const Tensor& table) {
  return table.stride(1) == 1 || table.size(1) == 1;
}

Tensor read_entry(const Tensor& table, const Tensor& index, const Tensor& weight) {
  return table_read_cpu(table, index, weight, cpu_level());
}

Tensor backward_weight_entry(const Tensor& grad, const Tensor& table, const Tensor& index) {
  return table_read_backward_weight_cpu(grad, table, index, cpu_level());
}

}  // namespace

Tensor table_read_cpu(const Tensor& table, const Tensor& index, const Tensor& weight, CpuLevel level) {
  check_table_read(table, index, weight);
  if (!rows_are_dense(table)) return table_read_definition(table, index, weight);
  const Tensor dense_index = index.contiguous();
  check_range("table_read", table, dense_index);
  Tensor out = at::empty({index.size(0), table.size(1)}, weight.options());  // [T, D]
  run(functions_of(table.scalar_type(), level).read, table, dense_index, weight.contiguous(), out);
  return out;
}

Tensor table_read_backward_weight_cpu(const Tensor& grad, const Tensor& table, const Tensor& index, CpuLevel level) {
  check_table_read_backward_weight(grad, table, index);
  if (!rows_are_dense(table)) return table_read_backward_weight_definition(grad, table, index);
  const Tensor dense_index = index.contiguous();
  check_range("table_read_backward_weight", table, dense_index);
  Tensor out = at::empty(index.sizes(), grad.options());  // [T, K]
  run(functions_of(table.scalar_type(), level).backward_weight, table, dense_index, grad.contiguous(), out);
  return out;
}

TORCH_LIBRARY_IMPL(loci, CPU, m) {
  m.impl("table_read", read_entry);
  m.impl("table_read_backward_weight", backward_weight_entry);
}

}  // namespace loci
