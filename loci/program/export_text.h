// A program as pseudo-code:
//
//   if r0==0: { t=mem[r0]; r0=t+1 }
//   else: { mem[0]=mem[r0]; stop }
//
// Registers start at 0 and change together at the end of a step ("r0,r2=r0+1,t"); the lines repeat until `stop`.
// Arithmetic is modulo the number of cells; a comparison is 0 or 1.
#pragma once

#include <string>

#include "loci/program/ram_program.h"

namespace loci {

std::string to_text(const RamProgram& program);

}  // namespace loci
