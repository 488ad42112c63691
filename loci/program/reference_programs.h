// A program written by hand for each of the ten tasks (data/ram_tasks.h): what a trained machine could find.
#pragma once

#include <string_view>

#include "loci/program/ram_program.h"

namespace loci {

// Solves every instance of the task in its reference_steps. Throws Error (usage) for an unknown name.
RamProgram reference_program(std::string_view task);

}  // namespace loci
