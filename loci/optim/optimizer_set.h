// Every optimiser of a model as one: AdamW for dense parameters (the framework's fused kernel), a row optimiser for
// each table, gradient clipping of either kind, the state to save.
#pragma once

#include <ATen/core/Tensor.h>

#include <string>
#include <utility>
#include <vector>

#include "loci/optim/row_optimizer.h"
#include "loci/optim/schedule.h"
#include "loci/table/table.h"

namespace loci {

struct DenseOptimizerOptions {
  double learning_rate = 3e-3;
  double beta1 = 0.9;
  double beta2 = 0.95;
  double epsilon = 1e-8;
  double weight_decay = 0.1;  // on matrices; gains, biases and keys have none
  double clip_norm = 1;       // of all dense gradients together; 0: off
  ScheduleOptions schedule;
  void fields(ConfigFields& f);
};

struct NamedParameter {
  std::string name;
  at::Tensor value;
  bool decay = true;
  double rate_factor = 1;  // multiplies the dense learning rate
};

struct StepReport {
  double dense_norm = 0;  // before clipping
  double rate = 0;        // dense learning rate used
  bool skipped = false;   // some gradient was not finite: nothing was changed
  std::vector<RowStep> tables;
};

class OptimizerSet {
 public:
  OptimizerSet(std::vector<NamedParameter> dense, DenseOptimizerOptions dense_options,
               std::vector<std::pair<TablePtr, RowOptimizerOptions>> tables, uint64_t seed);

  // One update from the gradients that backward left; `scale` divides them (number of micro-batches). Dense and rows
  // are skipped together when any gradient is not finite. Parameters without a gradient keep their bits. Gradients are
  // cleared.
  StepReport step(int64_t step, int64_t steps, double scale = 1);
  void zero_gradients();

  // Tensors by name, to save and to copy into: "dense.NAME.moment1", "table.NAME.count" ...
  std::vector<std::pair<std::string, at::Tensor>> state() const;
  std::vector<std::pair<std::string, at::Tensor>> state_beside_rows() const;  // without what has a place for every row
  void clear_state(const at::Tensor& parameter);  // moments and step count of one dense parameter
  RowOptimizer& rows_of(const Table& table);
  const RowOptimizer& rows_of(const Table& table) const;

 private:
  std::vector<std::pair<std::string, at::Tensor>> state_of(bool with_rows) const;
  struct Dense {
    NamedParameter parameter;
    at::Tensor moment1, moment2, count;  // count: float32 scalar
  };
  double dense_norm(double scale) const;
  void step_dense(double rate, double divisor);

  std::vector<Dense> dense_;
  DenseOptimizerOptions options_;
  std::vector<RowOptimizer> rows_;
};

}  // namespace loci
