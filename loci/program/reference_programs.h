// A hand-written program for each of the ten tasks (data/ram/ram_tasks.h), as a trained machine could find it.
#pragma once

#include <string_view>

#include "loci/program/ram_program.h"

namespace loci {

// Solves every instance of the task in its reference_steps. Throws Error (usage) for an unknown name.
RamProgram reference_program(std::string_view task);

}  // namespace loci
