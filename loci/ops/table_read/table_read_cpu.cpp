#include "loci/ops/table_read/table_read_cpu.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <atomic>

#include "loci/ops/operator.h"
#include "loci/ops/table_read/table_read_definition.h"
#include "loci/ops/table_read/table_read_kernel.h"

// Legend: T tokens, K reads of a token, N rows, D width.

namespace loci {

using at::Tensor;

namespace {

const TableReadKernel::OfRows& functions_of(at::ScalarType type, CpuLevel level) {
  const TableReadKernel& kernel =
      at_level(level, base::table_read_kernel, avx2::table_read_kernel, avx512::table_read_kernel);
  switch (type) {
    case at::kDouble:
      return kernel.float64;
    case at::kFloat:
      return kernel.float32;
    case at::kBFloat16:
      return kernel.bfloat16;
    case at::kChar:
      return kernel.int8;
    default:
      return kernel.float16;  // the checks let no other type pass
  }
}

void run_rows(const char* who, TableReadFunction function, const Tensor& table, const Tensor& index,
              const Tensor& factor, const std::optional<Tensor>& scale, Tensor& out) {
  const Tensor scales = scale ? scale->contiguous() : Tensor();
  const TableReadArguments arguments{table.const_data_ptr(),  scale ? scales.const_data_ptr<float>() : nullptr,
                                     table.size(0),           table.stride(0),
                                     table.size(1),           index.const_data_ptr<int64_t>(),
                                     index.size(0),           index.size(1),
                                     factor.const_data_ptr(), out.data_ptr()};
  // About 64 thousand elements are worth a thread.
  const int64_t work = std::max<int64_t>(1, index.size(1) * table.size(1));
  std::atomic<int64_t> bad{-1};
  at::parallel_for(0, index.size(0), std::max<int64_t>(1, 65536 / work), [&](int64_t first, int64_t last) {
    const int64_t position = function(arguments, first, last);
    if (position >= 0) bad = position;
  });
  if (bad >= 0) fail_index(who, table.size(0), arguments.index[bad]);
}

bool rows_are_dense(const Tensor& table) {
  return table.stride(1) == 1 || table.size(1) == 1;
}

}  // namespace

Tensor table_read_cpu(const Tensor& table, const Tensor& index, const Tensor& weight,
                      const std::optional<Tensor>& scale, CpuLevel level) {
  check_table_read(table, index, weight, scale);
  if (!rows_are_dense(table)) return table_read_definition(table, index, weight, scale);
  Tensor out = at::empty({index.size(0), table.size(1)}, weight.options());  // [T, D]
  run_rows("table_read", functions_of(table.scalar_type(), level).read, table, index.contiguous(), weight.contiguous(),
           scale, out);
  return out;
}

Tensor table_project_cpu(const Tensor& table, const Tensor& index, const Tensor& x, const std::optional<Tensor>& scale,
                         CpuLevel level) {
  check_table_project(table, index, x, scale);
  if (!rows_are_dense(table)) return table_project_definition(table, index, x, scale);
  Tensor out = at::empty(index.sizes(), x.options());  // [T, K]
  run_rows("table_project", functions_of(table.scalar_type(), level).project, table, index.contiguous(), x.contiguous(),
           scale, out);
  return out;
}

TORCH_LIBRARY_IMPL(loci, CPU, m) {
  m.impl("table_read", at_cpu_level<table_read_cpu>);
  m.impl("table_project", at_cpu_level<table_project_cpu>);
}

}  // namespace loci
