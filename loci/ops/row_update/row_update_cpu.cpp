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

template <class Real>
RowUpdateArguments<Real> update_arguments(const Tensor& table, const RowState& state, const RowUpdate& update,
                                          const Tensor& row) {
  const auto data_of = [](const Tensor& t, bool wanted) { return wanted ? t.mutable_data_ptr() : nullptr; };
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
  a.whole_square = state.square_sum.defined() ? state.square_sum.const_data_ptr<double>() : nullptr;
  a.update = update;
  return a;
}

RowState contiguous_squares(RowState state) {
  if (state.square_sum.defined()) state.square_sum = state.square_sum.contiguous();
  return state;
}

// Threads that are worth it for so many rows and references.
template <class Real>
int64_t update_threads(const RowUpdateArguments<Real>& a, int64_t references) {
  return std::clamp<int64_t>((a.rows + references) * a.width / 65536, 1, at::get_num_threads());
}

template <class Real>
void row_update_of(const Tensor& table, const RowState& state, const Tensor& row, const Tensor& gradient,
                   const RowUpdate& update) {
  RowUpdateArguments<Real> a = update_arguments<Real>(table, state, update, row);
  a.gradient = gradient.const_data_ptr<Real>();
  update_rows(a, cpu_level(), update_threads(a, 0), framework_threads());
}

void row_update_cpu(const Tensor& table, const RowState& state, const Tensor& row, const Tensor& gradient,
                    const RowUpdate& update) {
  check_row_update(table, state, row, gradient, update);
  const auto run = table.scalar_type() == at::kDouble ? row_update_of<double> : row_update_of<float>;
  run(table, contiguous_squares(state), row.contiguous(), gradient.contiguous(), update);
}

template <class Real>
Tensor row_step_of(const Tensor& table, const RowState& state, const RowOrder& order, const Tensor& source,
                   const RowUpdate& update) {
  RowUpdateArguments<Real> a = update_arguments<Real>(table, state, update, order.row);
  const RowSumArguments<Real> references = sum_arguments<Real>(order, source);
  Tensor square_sum = at::empty({a.rows}, source.options().dtype(at::kDouble));
  a.references = &references;
  a.square_sum = square_sum.mutable_data_ptr<double>();
  update_rows(a, cpu_level(), update_threads(a, order.source.size(0)), framework_threads());
  return square_sum;
}

Tensor row_step_cpu(const Tensor& table, const RowState& state, const RowOrder& order, const Tensor& source,
                    const RowUpdate& update) {
  check_row_step(table, state, order, source, update);
  const auto run = source.scalar_type() == at::kDouble ? row_step_of<double> : row_step_of<float>;
  return run(table, contiguous_squares(state), contiguous(order), source.contiguous(), update);
}

template <class Real>
Tensor square_sums_of(RowUpdateArguments<Real> a, int64_t references) {
  Tensor out = at::empty({a.rows}, at::kDouble);
  a.square_sum = out.mutable_data_ptr<double>();
  square_sums(a, cpu_level(), update_threads(a, references), framework_threads());
  return out;
}

template <class Real>
Tensor row_square_sum_of(const Tensor& gradient) {
  RowUpdateArguments<Real> a{};
  a.rows = gradient.size(0);
  a.width = gradient.size(1);
  a.gradient = gradient.const_data_ptr<Real>();
  return square_sums_of(a, 0);
}

Tensor row_square_sum_cpu(const Tensor& gradient) {
  check_row_square_sum(gradient);
  const auto run = gradient.scalar_type() == at::kDouble ? row_square_sum_of<double> : row_square_sum_of<float>;
  return run(gradient.contiguous());
}

template <class Real>
Tensor order_square_sum_of(const RowOrder& order, const Tensor& source) {
  const RowSumArguments<Real> references = sum_arguments<Real>(order, source);
  RowUpdateArguments<Real> a{};
  a.rows = order.row.size(0);
  a.width = source.size(1);
  a.references = &references;
  return square_sums_of(a, order.source.size(0));
}

Tensor order_square_sum_cpu(const Tensor& row, const Tensor& begin, const Tensor& source_index,
                            const Tensor& coefficient, const Tensor& source) {
  const RowOrder order{row, begin, source_index, coefficient};
  check_references("row_square_sum", order, source);
  const auto run = source.scalar_type() == at::kDouble ? order_square_sum_of<double> : order_square_sum_of<float>;
  return run(contiguous(order), source.contiguous());
}

TORCH_LIBRARY_IMPL(loci, CPU, m) {
  m.impl("row_update_", row_update_operator<row_update_cpu>);
  m.impl("row_step_", row_step_operator<row_step_cpu>);
  m.impl("row_square_sum", row_square_sum_cpu);
  m.impl("row_square_sum_sorted", order_square_sum_cpu);
}

}  // namespace
}  // namespace loci
