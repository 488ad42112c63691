// Watches the non-local blocks of a task while it trains: how much they add and where they look, for the log, and
// warnings of blocks that do nothing (docs/non-local.md).
#pragma once

#include <set>
#include <string>
#include <vector>

#include "loci/nn/relation/non_local.h"
#include "loci/train/task.h"

namespace loci {

// A task calls its functions where the functions of Task have their names. Every kCheck steps each block is diagnosed
// on samples of that step (a line of kind "non_local"); a warning is given once for each block and cause.
class NonLocalWatch {
 public:
  static constexpr int64_t kCheck = 100;  // steps

  explicit NonLocalWatch(NamedNonLocals blocks) : blocks_(std::move(blocks)) {}
  void before_step(int64_t step) const;
  std::vector<TaskEvent> after_step(int64_t steps_made);

 private:
  NamedNonLocals blocks_;
  std::set<std::string> warned_;  // "layer3.1: block still dead"
};

}  // namespace loci
