// A program's table as a tree of questions about registers ("is r2 zero?") that ends in circuits, for readers.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "loci/program/ram_program.h"

namespace loci {

// A question if it has `zero` and `nonzero`, else an answer. Unseen patterns get whatever answer keeps the tree small.
struct PatternTree {
  int asked = 0;                      // the register
  int32_t row = RamProgram::kUnseen;  // the circuit; kUnseen when the whole table is unseen
  std::unique_ptr<PatternTree> zero;
  std::unique_ptr<PatternTree> nonzero;

  bool is_answer() const { return zero == nullptr; }
};

// At each node it asks for the register whose answer leaves the fewest circuits, both sides added.
PatternTree pattern_tree(const RamProgram& program);

// The condition of each circuit, such as "r0==0 and r1!=0", or "always". Several conditions are joined by " or ".
std::vector<std::string> conditions(const RamProgram& program);

}  // namespace loci
