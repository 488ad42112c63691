// A task: model, data, loss and measures. One trainer trains them all.
#pragma once

#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>

#include <nlohmann/json.hpp>

#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "loci/base/config_fields.h"
#include "loci/base/progress.h"
#include "loci/distributed/collectives.h"
#include "loci/distributed/exchange_cost.h"
#include "loci/optim/optimizer_set.h"
#include "loci/table/table_maker.h"
#include "loci/train/measure.h"

namespace loci {

class CheckpointReader;

// Tensors [N, ...] with a value for each row of a table, such as counters, that checkpoints hold with the rows.
struct RowCounters {
  std::vector<std::pair<std::string, at::Tensor>> tensors;
  std::vector<int64_t> changed;  // rows in which they differ from the checkpoint before, ascending
};

// Bytes that a run will need in addition to the program itself, by purpose ("dense parameters", "tables", "row
// optimiser state", "activations" ...).
using MemoryEstimate = std::vector<std::pair<std::string, int64_t>>;

// Data that a task has opened. It stays as it is, whatever happens to the folder that it came from.
struct OpenedData {
  virtual ~OpenedData() = default;
};

// What `loci eval` may ask of a task beyond its measures.
struct AccountOptions {
  std::vector<int64_t> lengths = {};       // of instances, for a task whose instances have a length
  std::optional<int64_t> by_context = {};  // steps of training, for a task of text: the loss by what they have shown
  std::filesystem::path questions = {};    // a file of prompts and answers, for a task of text; or empty
  bool places = false;                     // for a task of poses: whether rows are tied to places
  bool poses = false;                      // for a task of poses: those of the test frames, true and predicted
  int64_t pictures = 0;  // for a task that makes its samples: so many test samples, with what is found
  ProgressLine* progress = nullptr;
};

// Throws Error (usage) for what is asked of another kind of task.
void refuse_lengths(const AccountOptions& options);
void refuse_text_options(const AccountOptions& options);
void refuse_places(const AccountOptions& options);
void refuse_poses(const AccountOptions& options);
void refuse_pictures(const AccountOptions& options);

struct Account {
  std::string text;  // for people
  nlohmann::json json = nlohmann::json::object();
};

// Where a run stands after a step.
struct StepMade {
  int64_t step = 0;   // how many are made
  int64_t steps = 0;  // of the whole run
  double loss = 0;    // of this one; NaN where it changed nothing
};

// Something that happened in a run: a line of the log, with its kind, and what people are told of it, if anything.
struct TaskEvent {
  nlohmann::json line;
  std::string notice;
};

class Task {
 public:
  virtual ~Task() = default;

  virtual torch::nn::Module& module() = 0;
  virtual std::vector<NamedParameter> dense_parameters() = 0;
  virtual std::vector<std::pair<TablePtr, RowOptimizerOptions>> tables() = 0;

  // The scalar loss of micro-batch `micro` of `step`: a pure function of them, the parameters and the seed.
  virtual at::Tensor loss(int64_t step, int64_t micro) = 0;
  // What the task counts: "tokens", "images", "clips", "instances".
  virtual std::string unit() const = 0;
  virtual int64_t units_per_micro_batch() const = 0;
  // What evaluate() measures. Arms are compared by the first.
  virtual std::vector<Measure> measures() const = 0;
  // On the validation data, in evaluation mode.
  virtual Evaluation evaluate() = 0;
  // What methods without a network reach after the data of the first `steps` steps, on what evaluate() measures.
  virtual std::vector<Baseline> baselines(int64_t steps) { return (void)steps, std::vector<Baseline>{}; }
  // More than the measures, for `loci eval`, which has just made the evaluation. Throws Error (usage) for options that
  // are not of the task.
  virtual Account account(const Evaluation& evaluation, const AccountOptions& options);
  // One forward pass over validation data as inference does it; returns its units. Timed by the experiment.
  virtual int64_t infer(int64_t position) = 0;
  // Called before each step; may change parameters and clear optimiser state (calibration).
  virtual void before_step(int64_t step, OptimizerSet& optimizers) { (void)step, (void)optimizers; }
  // The update from the gradients that backward left. A task whose loss has no gradient makes its own instead.
  virtual StepReport update(int64_t step, int64_t steps, OptimizerSet& optimizers, double divisor) {
    return optimizers.step(step, steps, divisor);
  }
  // Called after each step, skipped ones too; may change parameters and clear optimiser state (re-initialisation).
  virtual std::vector<TaskEvent> after_step(const StepMade& made, OptimizerSet& optimizers) {
    return (void)made, (void)optimizers, std::vector<TaskEvent>{};
  }
  // True when there is nothing left to learn: the run ends before its last step.
  virtual bool finished() const { return false; }
  // What the progress line says in place of loss and rate; empty: those.
  virtual std::string progress() const { return ""; }
  // What the log adds to loss and rate, over the steps since the last call; the progress line shows those of it that
  // are measures(). `whole`: there were as many steps as between any two lines, so that the numbers can be compared.
  virtual nlohmann::json training_measures(bool whole) { return (void)whole, nlohmann::json::object(); }

  // Copies trained parameters and buffers into the model before its first step. What is new in it, such as a memory,
  // may be missing; the default knows nothing new. Throws Error (input) in the name of `who`.
  virtual void start_from(const std::map<std::string, at::Tensor>& state, const std::string& who);
  // What belongs to a table's rows in addition to their values and optimiser state. `since`: the step of the checkpoint
  // before.
  virtual RowCounters row_state(const Table& table, int64_t since) { return (void)table, (void)since, RowCounters{}; }
  // Tensors beyond parameters, buffers, tables and what belongs to rows, to save and to copy into.
  virtual std::vector<std::pair<std::string, at::Tensor>> extra_state() { return {}; }
  // Called after extra_state() was copied into, for state that is no tensor.
  virtual void extra_state_loaded() {}
  // Files that a checkpoint must hold to be usable on its own (the tokenizer): name and content.
  virtual std::vector<std::pair<std::string, std::string>> files() { return {}; }
  // Names the training data: a run goes on only with the data that it began with.
  virtual std::string data_key() const { return ""; }
  // For other tasks of the same data settings in this process; or null.
  virtual std::shared_ptr<const OpenedData> opened_data() const { return nullptr; }
  // What is different between that data and the data of another key, as far as it is known; or empty.
  virtual std::string data_changes(const std::string& key_before) const { return (void)key_before, ""; }
  // What a reader may want to know of that data: files, bytes, units.
  virtual nlohmann::json data_facts() const { return nlohmann::json::object(); }
};

// How a step's batch is cut: `batch` items (windows, images) in `accumulation` micro-batches.
struct BatchShape {
  int64_t batch = 1;
  int64_t accumulation = 1;
  int64_t per_micro_batch() const { return batch / accumulation; }
};

// What a run asks of the machine, known from its configuration alone.
// The reads of one kind of table, for what several ranks send each other.
struct TableExchange {
  std::string table;
  TableReads reads;    // of one pass of a token
  int64_t passes = 1;  // of a token in a step
  TableShard shard = TableShard::rows;
  int64_t row_bytes = 0;  // of all its tables: optimiser state that has one number for a whole row
  bool mapped = false;
};

struct RunSize {
  int64_t parameters_dense = 0;
  int64_t parameters_table = 0;
  int64_t units_per_step = 0;
  MemoryEstimate memory;
  int64_t multiply_adds = 0;  // of one unit, forward; 0: not counted
  MemoryEstimate disk = {};   // working files of tables that are mapped
  int64_t counter_bytes = 0;  // what an evaluation counts of rows, at most
  std::vector<TableExchange> exchanges = {};
};

// What a task is made of, in addition to its own sections of the configuration.
struct TaskInputs {
  std::filesystem::path data;
  std::shared_ptr<const OpenedData> opened;  // used instead of `data`; or null
  std::filesystem::path cache;               // where prepared data may be kept
  std::filesystem::path checkpoint;  // its task files (the tokenizer) are used instead of making them anew; or empty
  uint64_t seed = 0;
  BatchShape batch;
  RowOptimizerOptions rows;
  TableMaker tables = make_local_table;
  int64_t units_before = 0;  // that the run's weights were trained on: the data go on behind them
  bool training = true;
  ProgressLine* progress = nullptr;
  Ranks ranks = {};  // that share each batch and the tables
};

// A task's sections of a recipe, before anything is read or allocated.
class TaskPlan {
 public:
  virtual ~TaskPlan() = default;
  virtual void fields(ConfigFields& f) = 0;
  // Throws Error (usage) for options that do not fit each other.
  virtual void check() const {}
  // What the task counts, as Task::unit().
  virtual std::string unit() const = 0;
  virtual RunSize size(const BatchShape& batch, const RowOptimizerOptions& rows, bool bfloat16) const = 0;
  // Memory that the prepared data will take, from a look at the folder's files alone; 0: unknown.
  virtual int64_t data_bytes(const std::filesystem::path& folder) const { return (void)folder, 0; }
  // False for a task that updates its parameters itself: it has neither [optimizer] nor [table_optimizer].
  virtual bool uses_optimizers() const { return true; }
  // Throws Error (usage) when several ranks cannot train it together. Tasks that do not know ranks refuse.
  virtual void check_ranks(const Ranks& ranks) const;
  // True for a task whose data can go on behind TaskInputs::units_before.
  virtual bool can_continue() const { return false; }
  // False for a task that makes its data itself.
  virtual bool needs_data() const { return true; }
  // The settings that decide what is read of a data folder, as text. Runs that share them must see the same data.
  virtual std::string data_settings() const { return ""; }
  // Changes the rows' type, for a run that only serves. Throws Error (usage) when its tables cannot have that type.
  virtual void convert_tables(const std::string& dtype);
  // Changes the network to its packed form, for a run that only serves, and gives its tensors from a trained
  // checkpoint. Throws Error (usage) when it has none.
  virtual std::vector<std::pair<std::string, at::Tensor>> pack(const CheckpointReader& checkpoint);
  virtual std::unique_ptr<Task> make(const TaskInputs& inputs) const = 0;
};

// One row of tasks/all.cpp.
struct TaskKind {
  std::string name;
  std::unique_ptr<TaskPlan> (*plan)();
  std::vector<std::string> verbs = {};  // of the command line, for runs of this task alone: "generate"
};

}  // namespace loci
