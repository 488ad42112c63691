// What tasks share whose model has one product-key memory, or none: its table, the watch over it, what evaluations
// count.
#pragma once

#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "loci/nn/memory/product_key_memory.h"
#include "loci/nn/memory/reinitialise.h"
#include "loci/table/usage.h"
#include "loci/tasks/memory_watch.h"
#include "loci/train/checkpoint_folder.h"
#include "loci/train/task.h"

namespace loci {

// Counts what a memory reads while it lives, or until `scope` is reset: during an evaluation. Without a memory `usage`
// is null.
struct CountedReads {
  explicit CountedReads(const std::shared_ptr<ProductKeyMemory>& memory);
  std::shared_ptr<Usage> usage;
  std::optional<ObserverScope> scope;
};

class MemoryTask : public Task {
 public:
  std::vector<std::pair<TablePtr, RowOptimizerOptions>> tables() override;
  int64_t units_per_micro_batch() const override { return batch_.per_micro_batch(); }
  void before_step(int64_t step, OptimizerSet&) override { watch_->before_step(step); }
  std::vector<TaskEvent> after_step(const StepMade& made, OptimizerSet& optimizers) override {
    return watch_->after_step(made, optimizers);
  }
  nlohmann::json training_measures(bool whole) override { return watch_->training_measures(whole); }
  RowCounters row_state(const Table& table, int64_t since) override { return watch_->row_state(table, since); }
  std::vector<std::pair<std::string, at::Tensor>> extra_state() override { return watch_->extra_state(); }

 protected:
  explicit MemoryTask(const TaskInputs& inputs);
  // To be called once, when the model is made. `memory`: null for none. `layer` names it in the log.
  void watch(std::shared_ptr<ProductKeyMemory> memory, int64_t layer = 0);
  // Rows start as N(0, row_deviation^2).
  void reinitialise(const ReinitialiseOptions& options, double row_deviation) {
    watch_->reinitialise(options, row_deviation, seed_);
  }

  // The memory's reads are counted for the log until the end of what it returns: during a loss.
  std::deque<ObserverScope> observe() const { return watch_->observe(); }

  // The measures "usage" and "kl" of `what` ("rows") that `readers` ("test images") read, and their values.
  static void add_usage_measures(std::vector<Measure>& measures, std::string_view what, std::string_view readers);
  void add_usage(Evaluation& evaluation, const Usage& usage) const;

  const std::shared_ptr<ProductKeyMemory>& memory() const { return memory_; }
  const BatchShape& batch_shape() const { return batch_; }
  uint64_t seed() const { return seed_; }

 private:
  BatchShape batch_;
  RowOptimizerOptions rows_;
  uint64_t seed_;
  std::shared_ptr<ProductKeyMemory> memory_;
  int64_t layer_ = 0;
  std::unique_ptr<MemoryWatch> watch_;
};

// Copies a checkpoint into a network that only serves, and puts it into evaluation mode. `memory`: null for none.
void load_network(const CheckpointReader& checkpoint, torch::nn::Module& network,
                  const std::shared_ptr<ProductKeyMemory>& memory);

}  // namespace loci
