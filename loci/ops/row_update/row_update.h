// One optimiser update of some rows of a table, in place. All other rows and their state keep their bits.
//
// Legend: N rows, D width, U distinct rows.
//
//   row_update(table [N, D], state, row [U], gradient [U, D], update):
//     for every u, with g = factor * gradient[u], V = table[row[u]] and this row's m, v, t of state:
//       V *= 1 - rate * weight_decay
//       adam             t += 1; m = b1 m + (1 - b1) g; v = b2 v + (1 - b2) g^2
//                        V -= rate * (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + epsilon)
//       adam_row_moment  the same with one v a row, fed by mean(g^2)
//       adagrad          v += mean(g^2) (one a row); V -= rate * g / (sqrt(v) + epsilon)
//       sgd              V -= rate * g
//     a bfloat16 row is updated in float32, then rounded (RowRounding)
//
// table: float32, bfloat16 (gradient and state float32) or float64 (both float64). row: int64, ascending, distinct.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace loci {

enum class RowRule {
  adam,             // lazy Adam, bias correction by the row's own count of updates: state 8 D + 4 bytes a row
  adam_row_moment,  // one second moment per row, fed by mean(g^2): 4 D + 8 bytes a row
  adagrad,          // one accumulator per row: 4 bytes a row
  sgd,              // no state
};
// How a float32 update reaches bfloat16 rows.
enum class RowRounding {
  stochastic,  // up or down by chance, right on average; bits from (seed, step, row, column)
  nearest,     // loses updates below about 2^-9 of the value
  master,      // a float32 copy of the rows; it starts again from a row that was written from outside
};

// Undefined where the rule has none.
struct RowState {
  at::Tensor moment1;  // [N, D]
  at::Tensor moment2;  // [N, D] for adam, [N] for one a row
  at::Tensor count;    // [N] int32, updates of a row
  at::Tensor master;   // [N, D] float32, of bfloat16 rows
};

struct RowUpdate {
  RowRule rule = RowRule::adam;
  RowRounding rounding = RowRounding::stochastic;
  double rate = 0;
  double beta1 = 0;
  double beta2 = 0;
  double epsilon = 0;
  double weight_decay = 0;
  double factor = 1;
  uint64_t seed = 0;  // of stochastic rounding
  int64_t step = 0;
};

void row_update(const at::Tensor& table, const RowState& state, const at::Tensor& row, const at::Tensor& gradient,
                const RowUpdate& update);

// [U] float64: the sum of squares of every row of gradient [U, D] (float32 or float64), in float64.
at::Tensor row_square_sum(const at::Tensor& gradient);

}  // namespace loci
