// A program as a Graphviz graph: each circuit is a cluster of the modules it uses; each edge between circuits counts
// how often one followed the other in the counted runs.
#pragma once

#include <string>

#include "loci/program/prune.h"
#include "loci/program/ram_program.h"

namespace loci {

// `counts` may be those of the program before pruning.
std::string to_dot(const RamProgram& program, const PatternCounts& counts);

}  // namespace loci
