// One optimiser update of some rows of a table, in place. All other rows and their state keep their bits.
//
// Legend: N rows, D width, U distinct rows, S sources.
//
//   row_update(table [N, D], state, row [U], gradient [U, D], update):
//     for every u, with g = factor * gradient[u], V = table[row[u]] and this row's m, v, t of state:
//       V *= 1 - rate * weight_decay
//       adam             t += 1; m = b1 m + (1 - b1) g; v = b2 v + (1 - b2) g^2
//                        V -= rate * (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + epsilon)
//       adam_row_moment  the same with one v a row, fed by mean(g^2)
//       adagrad          v += mean(g^2) (one a row); V -= rate * g / (sqrt(v) + epsilon)
//       sgd              V -= rate * g
//     a bfloat16 row is updated in float32, then rounded (RowRounding); bfloat16 moments too, always stochastically
//     rows without columns (D = 0) and their state stay as they are
//
// table: float32, bfloat16 (gradient and state float32) or float64 (both float64); moments [N, D] may be bfloat16
// unless the table is float64. row: int64, ascending, distinct.
//
// Numbers that are not finite stay visible. Where v becomes infinite, V becomes NaN: for adam the column, for
// adam_row_moment and adagrad the whole row. This happens for infinite g, and for finite g if the dtype of v cannot
// hold g^2 or mean(g^2): |g| > 1.8e19 in float32. NaN in g makes V NaN.
//
// The operators row_update_ and row_step_ count as writes to the table and to each state: a graph that saved one of
// them refuses to run backward ("modified by an inplace operation"). They have no gradient.
#pragma once

#include <ATen/core/Tensor.h>

#include "loci/ops/row_order/row_order.h"
#include "loci/ops/row_update/row_rule.h"

namespace loci {

// Undefined where the rule has none.
struct RowState {
  at::Tensor moment1;  // [N, D]
  at::Tensor moment2;  // [N, D] for adam in moment1's dtype, [N] for one a row
  at::Tensor count;    // [N] int32, updates of a row
  at::Tensor master;   // [N, D] float32, of bfloat16 rows
  // [U] float64, given for one update: row_square_sum of the gradients of whole rows, where other columns of them are
  // elsewhere. mean(g^2) is that of update.whole_width columns then.
  at::Tensor square_sum = {};
};

void row_update(const at::Tensor& table, const RowState& state, const at::Tensor& row, const at::Tensor& gradient,
                const RowUpdate& update);

// The same from row references: gradient = row_sum(order, source), which is never stored. Returns
// row_square_sum(order, source).
at::Tensor row_step(const at::Tensor& table, const RowState& state, const RowOrder& order, const at::Tensor& source,
                    const RowUpdate& update);

// [U] float64: the sum of squares of every row of gradient [U, D] (float32 or float64), in float64.
at::Tensor row_square_sum(const at::Tensor& gradient);
// The same of the rows of row_sum(order, source).
at::Tensor row_square_sum(const RowOrder& order, const at::Tensor& source);

}  // namespace loci
