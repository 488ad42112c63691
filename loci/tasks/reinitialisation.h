// Re-initialises a task's memories (nn/memory/reinitialise.h) at the end of each window of steps. Holds the counters of
// the window, and gives the log its events and checkpoints its state.
#pragma once

#include <deque>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "loci/nn/memory/reinitialise.h"
#include "loci/train/task.h"

namespace loci {

// A memory, and the counters with the dates of its rows' reads, which whoever re-initialises it counts anyway.
struct RenewedMemory {
  int64_t layer;
  std::shared_ptr<ProductKeyMemory> memory;
  const Usage* usage;
};

class Reinitialisation {
 public:
  // Rows start as N(0, row_deviation^2).
  Reinitialisation(const std::vector<RenewedMemory>& memories, const ReinitialiseOptions& options, double row_deviation,
                   uint64_t seed);

  // Reads are counted until the end of the scopes.
  void observe(std::deque<ObserverScope>& scopes) const;
  // Logs an event (kind "reinitialise"), and 50 steps later the loss before and after it ("reinitialise_loss"): means
  // over the last ten steps.
  void after_step(const StepMade& made, OptimizerSet& optimizers, std::vector<TaskEvent>& events);
  // The memories were started anew before `step`: the window begins there.
  void restart(int64_t step);
  std::vector<std::pair<std::string, at::Tensor>> extra_state() const;

 private:
  struct Window;
  void begin_window(int64_t begin, int64_t begin_before);
  void redraw(const ReinitialiseEvent& event, OptimizerSet& optimizers, std::vector<TaskEvent>& events) const;
  TaskEvent event_of(const Window& window, const ReinitialiseEvent& event, int64_t redrawn, int64_t refreshed) const;

  ReinitialiseOptions options_;
  double row_deviation_;
  uint64_t seed_;
  std::vector<std::shared_ptr<Window>> windows_;
  at::Tensor state_;   // [3] int64: number, begin and begin_before of the window (ReinitialiseEvent)
  at::Tensor losses_;  // [14] float64: the last ten losses, how many there were, and the event whose loss is due
};

}  // namespace loci
