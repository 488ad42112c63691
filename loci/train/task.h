// A task: model, data, loss and measures. One trainer trains them all.
#pragma once

#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>

#include <nlohmann/json.hpp>

#include <filesystem>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "loci/base/config_fields.h"
#include "loci/base/progress.h"
#include "loci/optim/optimizer_set.h"
#include "loci/table/table_maker.h"

namespace loci {

// Bytes that a run will need, by purpose ("dense parameters", "tables", "row optimiser state", "activations" ...),
// beside the program itself.
using MemoryEstimate = std::vector<std::pair<std::string, int64_t>>;

class Task {
 public:
  virtual ~Task() = default;

  virtual torch::nn::Module& module() = 0;
  virtual std::vector<NamedParameter> dense_parameters() = 0;
  virtual std::vector<std::pair<TablePtr, RowOptimizerOptions>> tables() = 0;

  // The scalar loss of micro-batch `micro` of `step`: a pure function of them, the parameters and the seed.
  virtual at::Tensor loss(int64_t step, int64_t micro) = 0;
  virtual int64_t tokens_per_micro_batch() const = 0;
  // Measures on the validation data, in evaluation mode: {"loss": ..., "bits_per_byte": ..., "memories": [...]}.
  virtual nlohmann::json evaluate() = 0;
  // One forward pass over validation data as inference does it; returns its tokens. Timed by the experiment.
  virtual int64_t infer(int64_t position) = 0;
  // Called before each step; may change parameters and clear optimiser state (calibration, re-initialisation).
  virtual void before_step(int64_t step, OptimizerSet& optimizers) { (void)step, (void)optimizers; }
  // The update from the gradients that backward left. A task whose loss has no gradient makes its own instead.
  virtual StepReport update(int64_t step, int64_t steps, OptimizerSet& optimizers, double divisor) {
    return optimizers.step(step, steps, divisor);
  }
  // True when there is nothing left to learn: the run ends before its last step.
  virtual bool finished() const { return false; }
  // What the progress line says in place of loss and rate; empty: those.
  virtual std::string progress() const { return ""; }
  // What the progress line and the log add to loss and rate, over the steps since the last call: {"usage", "kl"}.
  virtual nlohmann::json training_measures() { return nlohmann::json::object(); }

  // Tensors beyond parameters, buffers and tables (counters ...), to save and to copy into.
  virtual std::vector<std::pair<std::string, at::Tensor>> extra_state() { return {}; }
  // Called after extra_state() was copied into, for state that is no tensor.
  virtual void extra_state_loaded() {}
  // Files that a checkpoint must hold to be usable on its own (the tokenizer): name and content.
  virtual std::vector<std::pair<std::string, std::string>> files() { return {}; }
  // Names the training data: a run goes on only with the data that it began with.
  virtual std::string data_key() const { return ""; }
};

// How a step's batch is cut: `batch` items (windows, images) in `accumulation` micro-batches.
struct BatchShape {
  int64_t batch = 1;
  int64_t accumulation = 1;
  int64_t per_micro_batch() const { return batch / accumulation; }
};

// What a run asks of the machine, known from its configuration alone.
struct RunSize {
  int64_t parameters_dense = 0;
  int64_t parameters_table = 0;
  int64_t tokens_per_step = 0;
  MemoryEstimate memory;
  MemoryEstimate disk = {};  // working files of tables that are mapped
};

// What a task is made of, beside its own sections of the configuration.
struct TaskInputs {
  std::filesystem::path data;
  std::filesystem::path cache;       // where prepared data may be kept
  std::filesystem::path checkpoint;  // its task files (the tokenizer) are used instead of making them anew; or empty
  uint64_t seed = 0;
  BatchShape batch;
  RowOptimizerOptions rows;
  TableMaker tables = make_local_table;
  bool training = true;
  ProgressLine* progress = nullptr;
};

// A task's sections of a recipe, before anything is read or allocated.
class TaskPlan {
 public:
  virtual ~TaskPlan() = default;
  virtual void fields(ConfigFields& f) = 0;
  // Throws Error (usage) for options that do not fit each other.
  virtual void check() const {}
  virtual RunSize size(const BatchShape& batch, const RowOptimizerOptions& rows, bool bfloat16) const = 0;
  // Memory that the prepared data will take, from a look at the folder's files alone; 0: unknown.
  virtual int64_t data_bytes(const std::filesystem::path& folder) const { return (void)folder, 0; }
  // False for a task that updates its parameters itself: it has neither [optimizer] nor [table_optimizer].
  virtual bool uses_optimizers() const { return true; }
  // False for a task that makes its data itself.
  virtual bool needs_data() const { return true; }
  virtual std::unique_ptr<Task> make(const TaskInputs& inputs) const = 0;
};

// One row of tasks/all.cpp.
struct TaskKind {
  std::string name;
  std::unique_ptr<TaskPlan> (*plan)();
};

}  // namespace loci
