// The discrete random-access machine: a program read out of a trained one.
//
// At each step the machine looks at which registers are zero; that pattern chooses a circuit, and the circuit runs on
// integers. Registers start at 0, arithmetic is modulo M (the number of cells, any 3 .. 2^32-1), every access is O(1).
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "loci/data/ram/ram_tape.h"
#include "loci/program/circuit.h"

namespace loci {

enum class StopReason {
  stopped,  // a circuit's stop bit
  forced,   // max_steps came first
  unseen,   // the program has no circuit for the pattern of zero registers
};
std::string_view name_of(StopReason reason);

struct RamRunResult {
  uint32_t steps = 0;  // circuits that ran
  StopReason reason = StopReason::forced;
  bool operator==(const RamRunResult&) const = default;
};

// What happened, step by step.
struct TraceStep {
  struct Module {
    int index = 0;  // in the circuit
    uint32_t a = 0, b = 0, output = 0;
    uint32_t before = 0;  // WRITE: what the cell held
    bool operator==(const Module&) const = default;
  };
  uint32_t pattern = 0;             // bit i: register i was zero
  std::vector<uint32_t> registers;  // before the step
  std::vector<Module> modules;      // that ran
  Tape tape;                        // after the step
  bool stop = false;
};
using Trace = std::vector<TraceStep>;

// The circuit for a pattern, or null for an unseen one. It is called once a step; a controller with a state may give
// another circuit each time.
using NextCircuit = std::function<const Circuit*(uint32_t pattern)>;
RamRunResult run_machine(const CircuitShape& shape, const NextCircuit& next, std::span<uint32_t> tape,
                         uint32_t max_steps, Trace* trace = nullptr);

// A trace for readers: for each step one line of registers, one of modules, and one of the tape with the changed cells
// in brackets.
std::string to_text(const CircuitShape& shape, const Trace& trace);

class RamProgram {
 public:
  static constexpr int32_t kUnseen = -1;

  // table[pattern], for 2^registers patterns, is an index into circuits or kUnseen. Throws Error (input) for a fault in
  // any part.
  RamProgram(CircuitShape shape, std::vector<Circuit> circuits, std::vector<int32_t> table);

  // Throws Error (usage) for a tape with fewer than 3 cells or a value outside 0 .. M-1.
  RamRunResult run(std::span<uint32_t> tape, uint32_t max_steps, Trace* trace = nullptr) const;

  const CircuitShape& shape() const { return shape_; }
  const std::vector<Circuit>& circuits() const { return circuits_; }
  const std::vector<int32_t>& table() const { return table_; }

 private:
  CircuitShape shape_;
  std::vector<Circuit> circuits_;
  std::vector<int32_t> table_;
};

}  // namespace loci
