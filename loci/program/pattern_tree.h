// A program's table as questions about registers, for people: "is r2 zero?" and so on, down to a circuit.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "loci/program/ram_program.h"

namespace loci {

// A question when `zero` and `nonzero` are there, otherwise an answer. Unseen patterns are answered as suits the tree.
struct PatternTree {
  int asked = 0;                      // the register
  int32_t row = RamProgram::kUnseen;  // the circuit; kUnseen when the whole table is unseen
  std::unique_ptr<PatternTree> zero;
  std::unique_ptr<PatternTree> nonzero;

  bool is_answer() const { return zero == nullptr; }
};

// Asks the register first whose answer leaves the fewest circuits on both sides together.
PatternTree pattern_tree(const RamProgram& program);

// By circuit: when it runs, such as "r0==0 and r1!=0", or "always"; several ways are joined by " or ".
std::vector<std::string> conditions(const RamProgram& program);

}  // namespace loci
