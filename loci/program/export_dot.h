// A program as a Graphviz graph: a cluster for each circuit with the modules it uses, and between the circuits how
// often one followed the other in the counted runs.
#pragma once

#include <string>

#include "loci/program/prune.h"
#include "loci/program/ram_program.h"

namespace loci {

// `counts` may be those of the program before it was pruned.
std::string to_dot(const RamProgram& program, const PatternCounts& counts);

}  // namespace loci
