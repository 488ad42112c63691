// A small assembler for programs of the standard modules, so that a person can write one:
//
//   access   r0z: INC(READ); r0=INC | else: WRITE(ZERO,READ); stop
//
// Rows are separated by |; the first whose condition holds runs. A condition is `r0z` (register 0 is zero), `r1nz`,
// several with commas, or `else`. A statement gives a module its operands (READ r1 is READ(r1)), a register its new
// value, or stops; a module's name stands for its output. Defaults: READ's pointer is r0, WRITE stores READ's output at
// READ's pointer, registers keep their values.
#pragma once

#include <string_view>

#include "loci/program/ram_program.h"

namespace loci {

// Throws Error (usage) that quotes the part it could not read.
RamProgram assemble(int registers, std::string_view text);

}  // namespace loci
