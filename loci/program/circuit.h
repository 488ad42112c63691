// The circuit of a random-access machine: what happens in one timestep.
//
// R registers hold integers 0 .. M-1, and so do the M cells of the tape. The modules run in order, i = 1 .. Q; an
// operand of module i is any register or any output of an earlier module. Then all registers take new values at once,
// each from any register (its old value) or any output. One number, a source, names either: 0 .. R-1 are the registers,
// R .. R+Q-1 the outputs. "Neural Random-Access Machines", section 3 (arXiv 1511.06392).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "loci/base/ram_modules.h"

namespace loci {

// Registers and modules; the module list runs `repeats` times in a step.
struct CircuitShape {
  int registers = 1;
  std::vector<RamModule> modules = standard_modules();
  int repeats = 1;

  int size() const { return static_cast<int>(modules.size()) * repeats; }  // Q
  const RamModule& module(int i) const { return modules[static_cast<size_t>(i) % modules.size()]; }
  std::string source_name(int source) const;  // "r1", "INC"; with repeats "INC.2" for the second INC
};

struct Circuit {
  struct Module {
    bool kept = true;  // false: pruned; it does nothing, and nothing uses its output
    uint16_t a = 0;
    uint16_t b = 0;
    bool operator==(const Module&) const = default;
  };
  std::vector<Module> modules;    // Q; operands that a module does not have are 0
  std::vector<uint16_t> sources;  // R: where each register's new value comes from
  bool stop = false;              // the machine halts after this step

  bool operator==(const Circuit&) const = default;
};

// A circuit that changes nothing: every operand is register 0 and registers keep their values. WRITE stores back what
// READ read.
Circuit idle_circuit(const CircuitShape& shape);

// Throws Error (input) that names the first fault.
void check_shape(std::string_view who, const CircuitShape& shape);
void check_circuit(std::string_view who, const CircuitShape& shape, const Circuit& circuit);

}  // namespace loci
