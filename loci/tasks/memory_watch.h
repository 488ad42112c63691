// Watches the memories of a task while it trains: counts what they read, gives the alarm for a memory that has
// collapsed, and re-initialises dead keys.
//
// Each of several ranks counts the reads of its slice of the batch; what is logged, decided and saved is of all of
// them, and the same on all. There every rank calls after_step, training_measures and row_state at the same time.
//
// Legend: H heads, n1, n2 sub-keys of the halves.
#pragma once

#include <deque>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "loci/distributed/collectives.h"
#include "loci/nn/memory/memory_layer.h"
#include "loci/nn/memory/sub_key_counts.h"
#include "loci/table/usage.h"
#include "loci/table/usage_alarm.h"
#include "loci/tasks/reinitialisation.h"
#include "loci/train/task.h"

namespace loci {

struct WatchedMemory {
  int64_t layer;  // names it in the log
  std::shared_ptr<MemoryLayer> memory;
};

// As JSON, for logs.
nlohmann::json usage_facts(int64_t layer, const UsageMetrics& metrics);

// A task calls its functions where the functions of Task have their names. Every kUsageCheck steps each memory's rows
// and sub-keys of these steps are logged (kind "memory") and the alarm is checked.
class MemoryWatch {
 public:
  static constexpr int64_t kUsageCheck = 100;  // steps

  // ranks: that have slices of each batch, and parts of the tables.
  explicit MemoryWatch(const std::vector<WatchedMemory>& memories, Ranks ranks = {});
  // Redraws dead sub-keys and unread rows from now on. All memories must be product-key memories. Rows start as
  // N(0, row_deviation^2). Throws Error (usage) on several ranks: each of them would draw other keys.
  void reinitialise(const ReinitialiseOptions& options, double row_deviation, uint64_t seed);

  bool empty() const { return memories_.empty(); }
  const Ranks& ranks() const { return ranks_; }
  // Counts the memories' reads for as long as the result lives: during a loss.
  std::deque<ObserverScope> observe() const;
  void before_step(int64_t step);
  std::vector<TaskEvent> after_step(const StepMade& made, OptimizerSet& optimizers);
  // Usage and KL since the last call, means over the memories. Null for a window that is not whole: it reads fewer
  // rows, so that its numbers cannot be compared.
  nlohmann::json training_measures(bool whole);
  // Forgets all reads: the memories were initialised again before `step`.
  void restarted(int64_t step);

  // Of the rows in the table's store, counted from its first one. On several ranks this one counts them for all from
  // now on, so that a part of a checkpoint holds them and is copied into.
  RowCounters row_state(const Table& table, int64_t since) const;
  // The same on all ranks, as of the last row_state() of each memory's table: one rank alone may ask. All copy it.
  std::vector<std::pair<std::string, at::Tensor>> extra_state() const;

 private:
  class Counters;
  TaskEvent check_usage(Counters& counters, int64_t step) const;

  Ranks ranks_;
  std::vector<std::shared_ptr<Counters>> memories_;
  std::unique_ptr<Reinitialisation> reinitialisation_;  // or none
  at::Tensor counted_from_;  // [1] int64: step at which the window of training_measures() began
  at::Tensor window_ended_;  // [1] int64: not 0 once training_measures() has logged the window
};

}  // namespace loci
