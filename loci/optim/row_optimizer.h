// Row optimisers: they touch the rows that a step read, and nothing else.
// Untouched rows and their state keep their bits. Formulas: docs/product-key-memory.md.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "loci/base/config.h"
#include "loci/table/table.h"

namespace loci {

enum class RowRule {
  adam,             // lazy Adam, bias correction by the row's own count of updates: state 8 D + 4 bytes a row
  adam_row_moment,  // one second moment per row, fed by mean(g^2): 4 D + 8 bytes a row
  adagrad,          // one accumulator per row: 4 bytes a row
  sgd,              // no state
};
// How a float32 update reaches bfloat16 rows.
enum class RowRounding { stochastic, nearest, master };

struct RowOptimizerOptions {
  RowRule rule = RowRule::adam;
  double learning_rate = 1e-3;  // constant: it does not follow the schedule of the dense parameters by default
  double beta1 = 0.9;
  double beta2 = 0.999;
  double epsilon = 1e-8;       // adagrad's default is 1e-10
  double weight_decay = 0;     // decoupled, on touched rows
  double clip_norm = 0;        // norm of this table's summed gradient; 0: off
  RowRounding rounding = RowRounding::stochastic;
  void fields(ConfigFields& f);
};

struct RowStep {
  int64_t rows = 0;      // distinct rows updated
  double norm = 0;       // L2 norm of the summed gradient before clipping, in double (NaN or inf: the step was skipped)
  bool skipped = false;  // a gradient was not finite: rows, state and counts are unchanged
};

class RowOptimizer {
 public:
  RowOptimizer(TablePtr table, RowOptimizerOptions options, uint64_t seed);
  // Consumes the table's pending gradient (it is zeroed). `rate_factor` multiplies the learning rate (schedules);
  // `scale` divides the gradient (loss scaling, accumulation).
  RowStep step(double rate_factor = 1, double scale = 1);
  const TablePtr& table() const { return table_; }
  const RowOptimizerOptions& options() const { return options_; }
  // State tensors by name ("moment1" [N, D], "moment2", "count" [N] ...), to save and to copy into. Untouched rows
  // cost no memory (mapped zero pages).
  std::vector<std::pair<std::string, at::Tensor>> state() const;
  void clear_state();                             // all rows
  void clear_state(const at::Tensor& row);        // [U] int64: re-initialised rows
  static int64_t state_bytes(int64_t rows, int64_t width, const RowOptimizerOptions& options, at::ScalarType dtype);

 private:
  TablePtr table_;
  RowOptimizerOptions options_;
  uint64_t seed_;
  int64_t steps_ = 0;
  at::Tensor moment1_, moment2_, count_, master_;
};

}  // namespace loci
