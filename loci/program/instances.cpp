#include "loci/program/instances.h"

#include "loci/base/check.h"

namespace loci {

void for_each_instance(const RamTask& task, const InstanceOptions& options,
                       const std::function<void(int64_t length, RamInstance& instance)>& act) {
  if (options.slacks.empty()) fail(ExitCode::usage, "instances", "slacks must name a tape size", "none");
  for (const int64_t length : options.lengths) {
    if (length < task.minimum_difficulty) continue;
    RandomSequence random(CounterRandom(options.seed, fmt::format("ram/instances/{}/{}", task.name, length)));
    for (int64_t i = 0; i < options.instances; ++i) {
      const uint32_t slack = options.slacks[static_cast<size_t>(i) % options.slacks.size()];
      RamInstance instance = sample(task, length, task.minimum_tape(length) + slack, random);
      act(length, instance);
    }
  }
}

}  // namespace loci
