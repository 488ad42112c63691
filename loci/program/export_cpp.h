// A program as one self-contained C++17 function without any library:
//
//   int run(uint32_t* mem, uint32_t M, uint32_t max_steps);
//
// It works on mem[0 .. M-1] (M >= 3, values below M) exactly as RamProgram::run does, and returns the number of steps,
// or -1 on an unseen pattern.
#pragma once

#include <string>

#include "loci/program/ram_program.h"

namespace loci {

// `name` is that of the function. Throws Error (usage) if a module has no C++ form.
std::string to_cpp(const RamProgram& program, const std::string& name = "run");

}  // namespace loci
