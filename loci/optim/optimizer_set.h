// Every optimiser of a model as one: a rule for the dense parameters, a row optimiser for each table, the schedule,
// gradient clipping, the rule for steps that are not finite, the reduction over ranks, the state to save.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "loci/optim/dense_optimizer.h"
#include "loci/optim/row_optimizer.h"
#include "loci/table/table.h"

namespace loci {

// Sums each tensor over the ranks that train together, in place; every rank calls it with the same tensors in the same
// order. Empty: this process is the only rank.
using Reduce = std::function<void(const std::vector<at::Tensor>& tensors)>;

struct StepReport {
  double dense_norm = 0;  // before clipping
  double rate = 0;        // dense learning rate used
  bool skipped = false;   // some gradient was not finite: nothing was changed
  std::vector<RowStep> tables;
};

class OptimizerSet {
 public:
  OptimizerSet(std::vector<NamedParameter> dense, DenseOptimizerOptions dense_options,
               std::vector<std::pair<TablePtr, RowOptimizerOptions>> tables, uint64_t seed, Reduce reduce = {});

  // One update from the gradients that backward left; `scale` divides them (number of micro-batches, and of ranks).
  // Dense gradients are summed over ranks first, so that norms and updates are those of the whole batch; dense
  // parameters and rows are skipped together, on all ranks, when any gradient of any rank is not finite. Parameters
  // without a gradient keep their bits. Hooks of the updated parameters are called. Gradients are cleared.
  StepReport step(int64_t step, int64_t steps, double scale = 1);
  // float64 numbers that the next step() sums over ranks, in place, beside its gradients. It skips when a sum is not
  // finite.
  void sum_beside(const at::Tensor& numbers) { beside_ = numbers; }
  void zero_gradients();
  // Whether step() asks for losses in place of gradients (DenseOptimizer::by_losses). `loss` is that of the next step,
  // on its whole batch.
  bool by_losses() const { return rule_->by_losses(); }
  void set_loss(std::function<double()> loss) { loss_ = std::move(loss); }

  // Tensors by name, to save and to copy into: "dense.NAME.moment1", "table.NAME.count" ...
  std::vector<std::pair<std::string, at::Tensor>> state() const;
  std::vector<std::pair<std::string, at::Tensor>> state_beside_rows() const;  // without what each row has for itself
  // Of one dense parameter, or of some of its rows: see DenseOptimizer::clear and clear_rows.
  void clear_state(const at::Tensor& parameter);
  void clear_rows(const at::Tensor& parameter, const at::Tensor& rows, const at::Tensor& like = {});
  RowOptimizer& rows_of(const Table& table);
  const RowOptimizer& rows_of(const Table& table) const;

 private:
  std::vector<std::pair<std::string, at::Tensor>> state_of(bool with_rows) const;
  std::vector<at::Tensor> with_gradient() const;
  double dense_norm(double scale) const;
  bool sum_over_ranks(std::vector<PendingRows>& pending, bool finite);
  void step_dense(double rate, double divisor);
  StepReport step_by_losses(double rate);

  std::vector<NamedParameter> dense_;
  DenseOptimizerOptions options_;
  std::unique_ptr<DenseOptimizer> rule_;
  std::vector<RowOptimizer> rows_;
  Reduce reduce_;
  std::function<double()> loss_;
  at::Tensor beside_;
};

}  // namespace loci
