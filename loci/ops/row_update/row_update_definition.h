// What the definition of row_update shares with its CPU path and its tests.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>

#include "loci/ops/row_update/row_update.h"

namespace loci {

void check_row_update(const at::Tensor& table, const RowState& state, const at::Tensor& row, const at::Tensor& gradient,
                      const RowUpdate& update);
void check_row_step(const at::Tensor& table, const RowState& state, const RowOrder& order, const at::Tensor& source,
                    const RowUpdate& update);
void check_row_square_sum(const at::Tensor& gradient);

void row_update_definition(const at::Tensor& table, const RowState& state, const at::Tensor& row,
                           const at::Tensor& gradient, const RowUpdate& update);
at::Tensor row_step_definition(const at::Tensor& table, const RowState& state, const RowOrder& order,
                               const at::Tensor& source, const RowUpdate& update);
at::Tensor row_square_sum_definition(const at::Tensor& gradient);

// 16 random bits for every column of a row; the first is column `first` of the whole table.
void rounding_bits(uint64_t seed, int64_t step, int64_t row, int64_t first, int64_t width, uint16_t* bits);

// The operators as the dispatcher sees them: `given` are the tensors between the state and the numbers.
template <class Result, class... Given>
using RowOperatorSignature = Result(const at::Tensor& table, const std::optional<at::Tensor>& moment1,
                                    const std::optional<at::Tensor>& moment2, const std::optional<at::Tensor>& count,
                                    const std::optional<at::Tensor>& master, const Given&... given, int64_t rule,
                                    int64_t rounding, double rate, double beta1, double beta2, double epsilon,
                                    double weight_decay, double factor, int64_t seed, int64_t step, int64_t first_row,
                                    int64_t first_column, int64_t whole_width,
                                    const std::optional<at::Tensor>& square_sum);

// kRun(table, state, given..., update) with that signature.
template <auto kRun, class Result, class... Given>
Result row_operator(const at::Tensor& table, const std::optional<at::Tensor>& moment1,
                    const std::optional<at::Tensor>& moment2, const std::optional<at::Tensor>& count,
                    const std::optional<at::Tensor>& master, const Given&... given, int64_t rule, int64_t rounding,
                    double rate, double beta1, double beta2, double epsilon, double weight_decay, double factor,
                    int64_t seed, int64_t step, int64_t first_row, int64_t first_column, int64_t whole_width,
                    const std::optional<at::Tensor>& square_sum) {
  const at::Tensor none;
  return kRun(table,
              {moment1.value_or(none), moment2.value_or(none), count.value_or(none), master.value_or(none),
               square_sum.value_or(none)},
              given...,
              {static_cast<RowRule>(rule), static_cast<RowRounding>(rounding), rate, beta1, beta2, epsilon,
               weight_decay, factor, static_cast<uint64_t>(seed), step, first_row, first_column, whole_width});
}

template <auto kRun>
constexpr auto* row_update_operator = row_operator<kRun, void, at::Tensor, at::Tensor>;

// kRun(table, state, order, source, update) as the operator row_step_.
template <auto kRun>
at::Tensor row_step_of_parts(const at::Tensor& table, const RowState& state, const at::Tensor& row,
                             const at::Tensor& begin, const at::Tensor& source_index, const at::Tensor& coefficient,
                             const at::Tensor& source, const RowUpdate& update) {
  return kRun(table, state, {row, begin, source_index, coefficient}, source, update);
}
template <auto kRun>
constexpr auto* row_step_operator =
    row_operator<row_step_of_parts<kRun>, at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor>;

}  // namespace loci
