// Row optimisers: they touch the rows that a step read, and nothing else.
// Untouched rows and their state keep their bits. Formulas: docs/product-key-memory.md.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "loci/base/config_fields.h"
#include "loci/ops/row_update/row_update.h"
#include "loci/table/table.h"

namespace loci {

enum class RowMoments { float32, bfloat16 };  // bfloat16: half the memory, rounded by chance
enum class RowPages { huge, small };

struct RowOptimizerOptions {
  RowRule rule = RowRule::adam;
  double learning_rate = 1e-3;  // constant: it does not follow the schedule of the dense parameters by default
  double beta1 = 0.9;
  double beta2 = 0.999;
  double epsilon = 0;       // 0: the rule's own, 1e-8 (adagrad 1e-10)
  double weight_decay = 0;  // decoupled, on touched rows
  double clip_norm = 0;     // norm of this table's summed gradient; 0: off
  RowRounding rounding = RowRounding::stochastic;
  RowMoments moments = RowMoments::float32;
  RowPages pages = RowPages::huge;  // of the state; small: a row nobody touched costs nothing, and a step more time
  void fields(ConfigFields& f);
};

struct RowStep {
  int64_t rows = 0;      // distinct rows updated
  double norm = 0;       // L2 norm of the summed gradient before clipping, in double (NaN or inf: the step was skipped;
                         // 0 where it was skipped for another's gradient and not measured)
  bool skipped = false;  // a gradient was not finite: rows, state and counts are unchanged
};

// The gradient of a step that is not made yet: it is summed while the rows are updated, so that no sum goes to memory.
struct PendingRows {
  OrderedReferences gradient;
  std::optional<double> norm;  // divided by the step's scale; where clipping, or doubt that it is finite, asked for it
  bool finite() const;
};

class RowOptimizer {
 public:
  RowOptimizer(TablePtr table, RowOptimizerOptions options, uint64_t seed);
  // Consumes the table's pending gradient (it is zeroed). `rate_factor` multiplies the learning rate (schedules);
  // `scale` divides the gradient (loss scaling, accumulation).
  RowStep step(double rate_factor = 1, double scale = 1);
  // The halves of step(), so that several optimisers can be skipped together: apply() updates, or skips what is not
  // finite or not `wanted`, and zeroes the table's gradient.
  PendingRows pending(double scale = 1) const;
  RowStep apply(const PendingRows& pending, double rate_factor = 1, double scale = 1, bool wanted = true);

  const TablePtr& table() const { return table_; }
  const RowOptimizerOptions& options() const { return options_; }
  // State tensors by name ("moment1" [N, D], "moment2", "count" [N], "master", "steps"), to save and to copy into.
  // The table gives the room (Table::row_storage): what nobody touched costs no memory.
  std::vector<std::pair<std::string, at::Tensor>> state() const;
  std::vector<std::pair<std::string, at::Tensor>> row_state() const;  // the part of it that has a place for every row
  void clear_state();                                                 // all rows
  void clear_state(const at::Tensor& row);                            // [U] int64: re-initialised rows
  static int64_t state_bytes(int64_t rows, int64_t width, const RowOptimizerOptions& options, at::ScalarType dtype);

 private:
  TablePtr table_;
  RowOptimizerOptions options_;
  uint64_t seed_;
  at::Tensor steps_;  // int64 scalar: steps made, for the bits of stochastic rounding
  RowState state_;
};

}  // namespace loci
