// The rules by which an optimiser updates a row, and their numbers. Torch-free.
#pragma once

#include <stdint.h>

namespace loci {

enum class RowRule {
  adam,             // lazy Adam, bias correction by the row's own count of updates: state 8 D + 4 bytes a row
  adam_row_moment,  // one second moment per row, fed by mean(g^2): 4 D + 8 bytes a row
  adagrad,          // one accumulator per row: 4 bytes a row
  sgd,              // no state
};
// How a float32 update reaches bfloat16 rows.
enum class RowRounding {
  stochastic,  // up or down by chance, right on average; bits from (seed, step, row of the whole table, column)
  nearest,     // loses updates below about 2^-9 of the value
  master,      // a float32 copy of the rows; it starts again from a row that was written from outside
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
  // Where the rows and their columns begin in the whole table, and its width where it has other columns elsewhere.
  int64_t first_row = 0;
  int64_t first_column = 0;
  int64_t whole_width = 0;
};

}  // namespace loci
