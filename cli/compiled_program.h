// A discrete program as the C++ that it is exported to, compiled by the host's compiler and loaded.
#pragma once

#include <memory>

#include "loci/program/ram_program.h"
#include "loci/program/verify.h"

namespace loci::cli {

// Exports, compiles with -Wall -Wextra -Werror (by $CXX, or c++) and loads. The runner keeps the library loaded and calls
// the compiled code alone. Throws Error (usage) when there is no compiler or it refuses the code.
RamRunner compiled_runner(const RamProgram& program);

}  // namespace loci::cli
