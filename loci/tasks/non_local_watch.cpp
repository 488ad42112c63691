#include "loci/tasks/non_local_watch.h"

#include "loci/nn/relation/non_local_diagnosis.h"

namespace loci {
namespace {

constexpr int64_t kWatchedSamples = 4;

}  // namespace

void NonLocalWatch::before_step(int64_t step) const {
  if ((step + 1) % kCheck != 0) return;
  for (const auto& [name, block] : blocks_) block->keep_inputs(kWatchedSamples);
}

std::vector<TaskEvent> NonLocalWatch::after_step(int64_t steps_made) {
  std::vector<TaskEvent> events;
  if (steps_made % kCheck != 0) return events;
  for (const auto& [name, block] : blocks_) {
    const at::Tensor input = block->kept_input();
    block->keep_inputs(0);
    if (!input.defined() || input.size(0) == 0) continue;
    const NonLocalDiagnosis d = diagnose(*block, input);
    TaskEvent event;
    event.line = {{"kind", "non_local"},
                  {"block", name},
                  {"entropy", d.entropy},
                  {"largest_weight", d.largest_weight},
                  {"space_distance", d.space_distance},
                  {"time_distance", d.time_distance},
                  {"residual_ratio", d.residual_ratio},
                  {"largest_scale", d.largest_scale}};
    const std::string warning = warning_of(d, steps_made);
    const std::string cause = name + ": " + warning.substr(0, warning.find(':'));
    if (!warning.empty() && warned_.insert(cause).second) event.notice = name + ": " + warning;
    events.push_back(std::move(event));
  }
  return events;
}

}  // namespace loci
