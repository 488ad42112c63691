// What tasks know of their memories while they train: what is read, whether a memory has collapsed; and what they do
// about dead keys.
//
// Legend: H heads, n1, n2 sub-keys of the halves.
#pragma once

#include <deque>
#include <memory>
#include <string>
#include <utility>
#include <vector>

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

  explicit MemoryWatch(const std::vector<WatchedMemory>& memories);
  // Dead sub-keys and unread rows are drawn anew, of memories that must be product-key memories. Rows start as
  // N(0, row_deviation^2).
  void reinitialise(const ReinitialiseOptions& options, double row_deviation, uint64_t seed);

  bool empty() const { return memories_.empty(); }
  // The memories' reads are counted until the end of what it returns: during a loss.
  std::deque<ObserverScope> observe() const;
  void before_step(int64_t step);
  std::vector<TaskEvent> after_step(const StepMade& made, OptimizerSet& optimizers);
  // Usage and KL since the last call, means over the memories. A window that is not whole reads fewer rows: its numbers
  // would say nothing.
  nlohmann::json training_measures(bool whole);
  // After the memories were started anew before `step`: what they read before says nothing.
  void restarted(int64_t step);

  RowCounters row_state(const Table& table, int64_t since) const;
  std::vector<std::pair<std::string, at::Tensor>> extra_state() const;

 private:
  class Counters;
  TaskEvent check_usage(const Counters& counters, int64_t step) const;

  std::vector<std::shared_ptr<Counters>> memories_;
  std::unique_ptr<Reinitialisation> reinitialisation_;  // or none
  at::Tensor counted_from_;  // [1] int64: step at which the window of training_measures() began
  at::Tensor window_ended_;  // [1] int64: the counters were logged and begin anew
};

}  // namespace loci
