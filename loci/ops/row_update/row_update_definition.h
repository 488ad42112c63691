// What the definition of row_update shares with its CPU path and its tests.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>

#include "loci/ops/row_update/row_update.h"

namespace loci {

// The operators as the dispatcher sees them.
using RowUpdateSignature = void(const at::Tensor& table, const std::optional<at::Tensor>& moment1,
                                const std::optional<at::Tensor>& moment2, const std::optional<at::Tensor>& count,
                                const std::optional<at::Tensor>& master, const at::Tensor& row,
                                const at::Tensor& gradient, int64_t rule, int64_t rounding, double rate, double beta1,
                                double beta2, double epsilon, double weight_decay, double factor, int64_t seed,
                                int64_t step);

using RowStepSignature = at::Tensor(const at::Tensor& table, const std::optional<at::Tensor>& moment1,
                                    const std::optional<at::Tensor>& moment2, const std::optional<at::Tensor>& count,
                                    const std::optional<at::Tensor>& master, const at::Tensor& row,
                                    const at::Tensor& begin, const at::Tensor& source_index,
                                    const at::Tensor& coefficient, const at::Tensor& source, int64_t rule,
                                    int64_t rounding, double rate, double beta1, double beta2, double epsilon,
                                    double weight_decay, double factor, int64_t seed, int64_t step);

// Of what both have in common; `gradient` is [U, D] of row_update.
void check_row_update(const char* who, const at::Tensor& table, const RowState& state, const at::Tensor& row,
                      const RowUpdate& update);
void check_row_update(const at::Tensor& table, const RowState& state, const at::Tensor& row, const at::Tensor& gradient,
                      const RowUpdate& update);
void check_row_step(const at::Tensor& table, const RowState& state, const RowOrder& order, const at::Tensor& source,
                    const RowUpdate& update);
void row_update_definition(const at::Tensor& table, const RowState& state, const at::Tensor& row,
                           const at::Tensor& gradient, const RowUpdate& update);
at::Tensor row_step_definition(const at::Tensor& table, const RowState& state, const RowOrder& order,
                               const at::Tensor& source, const RowUpdate& update);
at::Tensor row_square_sum_definition(const at::Tensor& gradient);

// The seed of the random bits that round bfloat16 moments.
inline uint64_t moment_seed(uint64_t seed) {
  return seed ^ 0x6d6f6d656e747321;
}

// 16 random bits for every column of a row.
void rounding_bits(uint64_t seed, int64_t step, int64_t row, int64_t width, uint16_t* bits);

// Wraps a function of (table, state, row, gradient, update) as the operator.
template <void (*kRun)(const at::Tensor&, const RowState&, const at::Tensor&, const at::Tensor&, const RowUpdate&)>
void run_row_update(const at::Tensor& table, const std::optional<at::Tensor>& moment1,
                    const std::optional<at::Tensor>& moment2, const std::optional<at::Tensor>& count,
                    const std::optional<at::Tensor>& master, const at::Tensor& row, const at::Tensor& gradient,
                    int64_t rule, int64_t rounding, double rate, double beta1, double beta2, double epsilon,
                    double weight_decay, double factor, int64_t seed, int64_t step) {
  const at::Tensor none;
  kRun(table, {moment1.value_or(none), moment2.value_or(none), count.value_or(none), master.value_or(none)}, row,
       gradient,
       {static_cast<RowRule>(rule), static_cast<RowRounding>(rounding), rate, beta1, beta2, epsilon, weight_decay,
        factor, static_cast<uint64_t>(seed), step});
}

template <at::Tensor (*kRun)(const at::Tensor&, const RowState&, const RowOrder&, const at::Tensor&, const RowUpdate&)>
at::Tensor run_row_step(const at::Tensor& table, const std::optional<at::Tensor>& moment1,
                        const std::optional<at::Tensor>& moment2, const std::optional<at::Tensor>& count,
                        const std::optional<at::Tensor>& master, const at::Tensor& row, const at::Tensor& begin,
                        const at::Tensor& source_index, const at::Tensor& coefficient, const at::Tensor& source,
                        int64_t rule, int64_t rounding, double rate, double beta1, double beta2, double epsilon,
                        double weight_decay, double factor, int64_t seed, int64_t step) {
  const at::Tensor none;
  return kRun(table, {moment1.value_or(none), moment2.value_or(none), count.value_or(none), master.value_or(none)},
              {row, begin, source_index, coefficient}, source,
              {static_cast<RowRule>(rule), static_cast<RowRounding>(rounding), rate, beta1, beta2, epsilon,
               weight_decay, factor, static_cast<uint64_t>(seed), step});
}

}  // namespace loci
