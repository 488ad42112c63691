// Pruning removes what has no effect on the tape, for readers.
#pragma once

#include <cstdint>
#include <map>
#include <utility>
#include <vector>

#include "loci/program/instances.h"
#include "loci/program/ram_program.h"

namespace loci {

// How often each pattern of zero registers began a step, and which followed it.
struct PatternCounts {
  uint64_t runs = 0;
  std::vector<uint64_t> seen;                                  // by pattern
  std::map<std::pair<uint32_t, uint32_t>, uint64_t> followed;  // (pattern, the next step's pattern)
  std::vector<uint64_t> last;                                  // by pattern: steps that ended a run
};
PatternCounts count_patterns(const RamProgram& program, const RamTask& task, const InstanceOptions& options = {});

// Drops modules and registers without a live value, and merges equal circuits. A value is live if it reaches a WRITE, a
// live register or the choice of a circuit; a WRITE that stores back what READ read at the same pointer does nothing.
// Exact: the same tapes, steps and unseen patterns as before on any input.
RamProgram simplify(const RamProgram& program);

// Drops the circuits of patterns that were never seen, then simplifies; here a register is only needed for the choice
// of a circuit if its zero bit tells two circuits that remain apart. The same tapes on every input that, like the
// counted ones, meets no unseen pattern.
RamProgram prune(const RamProgram& program, const PatternCounts& counts);

}  // namespace loci
