// Row optimisers: a step updates the rows that it read, and nothing else. All other rows and their state keep their
// bits. An optimiser works where the rows are. Of a table in parts by columns the ranks call pending() and apply()
// together: norms, and the second moments of whole rows, are of all columns. Formulas: docs/product-key-memory.md.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "loci/base/config_fields.h"
#include "loci/ops/row_update/row_update.h"
#include "loci/table/row_store.h"

namespace loci {

enum class RowMoments { float32, bfloat16 };  // bfloat16: half the memory, stochastic rounding
enum class RowPages { huge, small };

// The choices with the words that configurations and messages call them by.
const std::vector<std::pair<std::string, RowRule>>& row_rule_words();
const std::vector<std::pair<std::string, RowRounding>>& row_rounding_words();
const std::vector<std::pair<std::string, RowMoments>>& row_moments_words();
const std::vector<std::pair<std::string, RowPages>>& row_pages_words();

bool has_row_moment(RowRule rule);  // one second moment for a whole row

struct RowOptimizerOptions {
  RowRule rule = RowRule::adam;
  double learning_rate = 1e-3;  // constant: it does not follow the schedule of the dense parameters
  double beta1 = 0.9;
  double beta2 = 0.999;
  double epsilon = 0;       // 0: the rule's own, 1e-8 (adagrad 1e-10)
  double weight_decay = 0;  // decoupled, on touched rows
  double clip_norm = 0;     // norm of this table's summed gradient; 0: off
  RowRounding rounding = RowRounding::stochastic;
  RowMoments moments = RowMoments::float32;
  RowPages pages = RowPages::huge;  // of the state; small: less memory while few rows are trained, slower steps
  void fields(ConfigFields& f);
};

// The settings that may change from step to step; names and defaults are those of RowOptimizerOptions.
struct RowRates {
  double learning_rate, beta1, beta2, epsilon, weight_decay, clip_norm;
};

struct RowStep {
  int64_t rows = 0;      // distinct rows updated
  double norm = 0;       // L2 norm of the summed gradient before clipping, in double (NaN or inf: the step was skipped;
                         // 0 where it was skipped for another's gradient and not measured)
  bool skipped = false;  // a gradient was not finite: rows, state and counts are unchanged
};

// The gradient of a step that is not made yet. It is summed while the rows are updated, so that no sum is stored.
struct PendingRows {
  OrderedReferences gradient;
  // Divided by the step's scale. Computed only for clipping, and where the gradient may not be finite.
  std::optional<double> norm;
  bool finite() const;
};

class RowOptimizer {
 public:
  // Keeps `rows` alive. Throws Error (usage) for rows that are served or not on the CPU.
  RowOptimizer(RowStore& rows, RowOptimizerOptions options, uint64_t seed);
  // Updates the rows from their pending references, and clears these. `scale` divides the gradient (loss scaling,
  // accumulation).
  RowStep step(double scale = 1);
  // The halves of step(), so that several optimisers can skip a step together: apply() updates unless the gradient is
  // not finite or the step is not `wanted`, and clears the references in any case.
  PendingRows pending(double scale = 1) const;
  RowStep apply(const PendingRows& pending, double scale = 1, bool wanted = true);

  RowStore& rows() const { return *rows_; }
  const RowOptimizerOptions& options() const { return options_; }
  void set_rates(const RowRates& rates);  // from the next step on
  // State tensors by name ("moment1" [R, D], "moment2", "count" [R], "master", "steps"), to save and to copy into.
  // The store allocates them (RowStore::row_storage), so that rows without updates take no memory.
  std::vector<std::pair<std::string, at::Tensor>> state() const;
  std::vector<std::pair<std::string, at::Tensor>> row_state() const;  // without "steps": what has an entry per row
  void clear_state();                                                 // of all rows
  void clear_state(const at::Tensor& row);                            // of these rows [U] int64
  static int64_t state_bytes(int64_t rows, int64_t width, const RowOptimizerOptions& options, at::ScalarType dtype);

 private:
  std::optional<double> whole_norm(std::optional<double> here) const;
  at::Tensor whole_squares(const OrderedReferences& gradient) const;

  std::shared_ptr<RowStore> rows_;
  RowOptimizerOptions options_;
  uint64_t seed_;
  at::Tensor steps_;  // int64 scalar: steps made, for the bits of stochastic rounding
  RowState state_;
};

}  // namespace loci
