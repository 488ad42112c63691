// Random programs, for tests: anything that fits together, with some rows unseen.
#pragma once

#include "loci/base/random_sequence.h"
#include "loci/program/ram_program.h"

namespace loci {

inline RamProgram random_program(int registers, int repeats, RandomSequence& random) {
  const CircuitShape shape{.registers = registers, .repeats = repeats};
  const auto below = [&](int bound) { return static_cast<uint16_t>(random.below(static_cast<uint64_t>(bound))); };
  std::vector<Circuit> circuits(size_t{1} + below(1 << registers));
  for (Circuit& circuit : circuits) {
    for (int i = 0; i < shape.size(); ++i) {
      const int operands = shape.module(i).operands;
      circuit.modules.push_back({.kept = true,
                                 .a = operands >= 1 ? below(registers + i) : uint16_t{0},
                                 .b = operands >= 2 ? below(registers + i) : uint16_t{0}});
    }
    for (int r = 0; r < registers; ++r) circuit.sources.push_back(below(registers + shape.size()));
    circuit.stop = random.below(8) == 0;
  }
  std::vector<int32_t> table(size_t{1} << registers);
  for (int32_t& row : table)
    row = random.below(10) == 0 ? RamProgram::kUnseen : below(static_cast<int>(circuits.size()));
  return RamProgram(shape, std::move(circuits), std::move(table));
}

inline Tape random_tape(uint32_t M, RandomSequence& random) {
  Tape tape(M);
  for (uint32_t& cell : tape) cell = static_cast<uint32_t>(random.below(M));
  return tape;
}

}  // namespace loci
