// Legend: N rows, D width, U distinct rows.
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <algorithm>

#include "loci/base/cpu_level.h"
#include "loci/ops/row_order/row_order_definition.h"
#include "loci/ops/row_sum/row_sum_definition.h"
#include "loci/ops/row_update/row_update_definition.h"
#include "loci/ops/row_update/row_update_parallel.h"

namespace loci {
namespace {

using at::Tensor;

void* data_of(const Tensor& state, bool wanted) {
  return wanted ? state.mutable_data_ptr() : nullptr;
}

template <class Real>
RowUpdateArguments<Real> arguments_of(const Tensor& table, const RowState& state, const Tensor& row,
                                      const RowUpdate& update) {
  const bool adam = update.rule == RowRule::adam || update.rule == RowRule::adam_row_moment;
  const bool bfloat16 = table.scalar_type() == at::kBFloat16;
  RowUpdateArguments<Real> a{};
  a.table = table.mutable_data_ptr();
  a.moment1 = data_of(state.moment1, adam);
  a.moment2 = data_of(state.moment2, update.rule != RowRule::sgd);
  a.count = static_cast<int32_t*>(data_of(state.count, adam));
  a.master = static_cast<float*>(data_of(state.master, bfloat16 && update.rounding == RowRounding::master));
  a.bfloat16_table = bfloat16;
  a.bfloat16_moments = adam && state.moment1.scalar_type() == at::kBFloat16;
  a.width = table.size(1);
  a.row = row.const_data_ptr<int64_t>();
  a.rows = row.size(0);
  a.update = update;
  return a;
}

// Threads that are worth it for so many rows and references.
template <class Real>
int64_t threads_for(const RowUpdateArguments<Real>& a, int64_t references) {
  return std::clamp<int64_t>((a.rows + references) * a.width / 65536, 1, at::get_num_threads());
}

template <class Real>
void update_of(const Tensor& table, const RowState& state, const Tensor& row, const Tensor& gradient,
               const RowUpdate& update) {
  RowUpdateArguments<Real> a = arguments_of<Real>(table, state, row, update);
  a.gradient = gradient.const_data_ptr<Real>();
  update_rows(a, cpu_level(), threads_for(a, 0), framework_threads());
}

void row_update_cpu(const Tensor& table, const RowState& state, const Tensor& row, const Tensor& gradient,
                    const RowUpdate& update) {
  check_row_update(table, state, row, gradient, update);
  const auto run = table.scalar_type() == at::kDouble ? update_of<double> : update_of<float>;
  run(table, state, row.contiguous(), gradient.contiguous(), update);
}

// Contiguous, whatever came.
RowOrder dense(const RowOrder& order) {
  return {order.row.contiguous(), order.begin.contiguous(), order.source.contiguous(), order.coefficient.contiguous()};
}

template <class Real>
RowSumArguments<Real> references_of(const RowOrder& order, const Tensor& source) {
  return {order.begin.const_data_ptr<int64_t>(), order.source.const_data_ptr<int32_t>(),
          order.coefficient.const_data_ptr<Real>(), source.const_data_ptr<Real>(), source.size(1)};
}

template <class Real>
Tensor step_of(const Tensor& table, const RowState& state, const RowOrder& order, const Tensor& source,
               const RowUpdate& update) {
  RowUpdateArguments<Real> a = arguments_of<Real>(table, state, order.row, update);
  Tensor square_sum = at::empty({a.rows}, source.options().dtype(at::kDouble));
  a.references = references_of<Real>(order, source);
  a.square_sum = square_sum.mutable_data_ptr<double>();
  update_rows(a, cpu_level(), threads_for(a, order.source.size(0)), framework_threads());
  return square_sum;
}

Tensor row_step_cpu(const Tensor& table, const RowState& state, const RowOrder& order, const Tensor& source,
                    const RowUpdate& update) {
  check_row_step(table, state, order, source, update);
  check_references_cpu("row_step", order, source);
  const auto run = source.scalar_type() == at::kDouble ? step_of<double> : step_of<float>;
  return run(table, state, dense(order), source.contiguous(), update);
}

template <class Real>
Tensor square_sums_of(const Real* gradient, const RowSumArguments<Real>& references, int64_t rows, int64_t width,
                      int64_t size) {
  Tensor out = at::empty({rows}, at::kDouble);
  RowUpdateArguments<Real> a{};
  a.width = width;
  a.rows = rows;
  a.gradient = gradient;
  a.references = references;
  a.square_sum = out.mutable_data_ptr<double>();
  square_sums(a, cpu_level(), threads_for(a, size), framework_threads());
  return out;
}

Tensor row_square_sum_cpu(const Tensor& gradient) {
  if ((gradient.scalar_type() != at::kFloat && gradient.scalar_type() != at::kDouble) || gradient.dim() != 2) {
    return row_square_sum_definition(gradient);  // says what is wrong
  }
  const Tensor g = gradient.contiguous();
  return g.scalar_type() == at::kFloat
             ? square_sums_of<float>(g.const_data_ptr<float>(), {}, g.size(0), g.size(1), 0)
             : square_sums_of<double>(g.const_data_ptr<double>(), {}, g.size(0), g.size(1), 0);
}

Tensor order_square_sum_cpu(const Tensor& row, const Tensor& begin, const Tensor& source_index,
                            const Tensor& coefficient, const Tensor& source) {
  const RowOrder given{row, begin, source_index, coefficient};
  check_references_cpu("row_square_sum", given, source);
  const RowOrder order = dense(given);
  const Tensor s = source.contiguous();
  const int64_t rows = row.size(0), size = coefficient.size(0);
  return s.scalar_type() == at::kFloat
             ? square_sums_of<float>(nullptr, references_of<float>(order, s), rows, s.size(1), size)
             : square_sums_of<double>(nullptr, references_of<double>(order, s), rows, s.size(1), size);
}

TORCH_LIBRARY_IMPL(loci, CPU, m) {
  m.impl("row_update_", run_row_update<row_update_cpu>);
  m.impl("row_step_", run_row_step<row_step_cpu>);
  m.impl("row_square_sum", row_square_sum_cpu);
  m.impl("row_square_sum.order", order_square_sum_cpu);
}

}  // namespace
}  // namespace loci
