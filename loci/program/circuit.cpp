#include "loci/program/circuit.h"

#include <algorithm>
#include <set>

#include "loci/base/check.h"

namespace loci {
namespace {

constexpr int kMaximumRegisters = 20;  // a table has 2^R rows
constexpr int kMaximumModules = 4096;  // sources must fit 16 bits

template <class Got>
void require_shape(std::string_view who, bool good, const auto& expected, const Got& got) {
  if (!good) fail(ExitCode::input, who, expected(), fmt::format("{}", got));
}

bool is_name(std::string_view name) {
  const auto plain = [](char c) {
    return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_';
  };
  return !name.empty() && name.size() <= 64 && std::all_of(name.begin(), name.end(), plain);
}

// Messages are formatted only on failure, for a table may have a million rows.
void check_source(std::string_view who, const CircuitShape& shape, const Circuit& circuit, int source, int end,
                  const auto& what) {
  require_shape(who, source < end, [&] { return fmt::format("{} must be 0..{}", what(), end - 1); }, source);
  require_shape(
      who, source < shape.registers || circuit.modules[static_cast<size_t>(source - shape.registers)].kept,
      [&] { return what() + " must not be a pruned module"; }, source);
}

void check_module(std::string_view who, const CircuitShape& shape, const Circuit& circuit, int i) {
  const RamModule& module = shape.module(i);
  const Circuit::Module& wires = circuit.modules[static_cast<size_t>(i)];
  for (const int operand : {0, 1}) {
    const uint16_t source = operand == 0 ? wires.a : wires.b;
    const auto what = [&] { return fmt::format("operand {} of module {} ({})", "ab"[operand], i, module.name); };
    if (wires.kept && operand < module.operands) {
      check_source(who, shape, circuit, source, shape.registers + i, what);
    } else {
      require_shape(who, source == 0, [&] { return what() + " is not used and must be 0"; }, source);
    }
  }
}

}  // namespace

std::string CircuitShape::source_name(int source) const {
  if (source < registers) return fmt::format("r{}", source);
  const int i = source - registers;
  if (repeats == 1) return module(i).name;
  return fmt::format("{}.{}", module(i).name, 1 + static_cast<size_t>(i) / modules.size());
}

Circuit idle_circuit(const CircuitShape& shape) {
  Circuit circuit;
  circuit.modules.resize(static_cast<size_t>(shape.size()));
  int read = -1;
  for (int i = 0; i < shape.size(); ++i) {
    const RamModule& module = shape.module(i);
    if (module.role == RamModule::Role::read) read = i;
    if (module.role == RamModule::Role::write && read >= 0) {
      circuit.modules[static_cast<size_t>(i)].b = static_cast<uint16_t>(shape.registers + read);
    }
  }
  for (int r = 0; r < shape.registers; ++r) circuit.sources.push_back(static_cast<uint16_t>(r));
  return circuit;
}

void check_shape(std::string_view who, const CircuitShape& shape) {
  const auto check = [&](bool good, const auto& got, std::string_view expected) {
    require_shape(who, good, [&] { return expected; }, got);
  };
  check(shape.registers >= 1 && shape.registers <= kMaximumRegisters, shape.registers, "registers must be 1..20");
  check(!shape.modules.empty() && shape.modules.size() <= kMaximumModules, shape.modules.size(),
        "module list must have 1..4096 modules");
  check(shape.repeats >= 1 && shape.repeats <= kMaximumModules / static_cast<int>(shape.modules.size()), shape.repeats,
        "repeats must be at least 1, and give at most 4096 modules");
  std::set<std::string_view> names;
  for (const RamModule& module : shape.modules) {
    using Role = RamModule::Role;
    const int highest = module.role == Role::read ? 1 : 2;
    const int lowest = module.role == Role::pure ? 0 : highest;
    check(is_name(module.name), "another character", "module name must be 1..64 letters, digits and underscores");
    check(names.insert(module.name).second, module.name, "module names must be distinct");
    check(module.operands >= lowest && module.operands <= highest, module.operands,
          fmt::format("operands of {} must be {}..{}", module.name, lowest, highest));
    check((module.role == Role::pure) == (module.evaluate != nullptr), module.evaluate == nullptr ? "none" : "one",
          fmt::format("integer form of {} must be {}", module.name, module.role == Role::pure ? "given" : "absent"));
  }
}

void check_circuit(std::string_view who, const CircuitShape& shape, const Circuit& circuit) {
  require_shape(
      who, circuit.modules.size() == static_cast<size_t>(shape.size()),
      [&] { return fmt::format("modules of a circuit must be {}", shape.size()); }, circuit.modules.size());
  require_shape(
      who, circuit.sources.size() == static_cast<size_t>(shape.registers),
      [&] { return fmt::format("registers of a circuit must be {}", shape.registers); }, circuit.sources.size());
  for (int i = 0; i < shape.size(); ++i) check_module(who, shape, circuit, i);
  for (size_t r = 0; r < circuit.sources.size(); ++r) {
    check_source(who, shape, circuit, circuit.sources[r], shape.registers + shape.size(),
                 [&] { return fmt::format("source of register {}", r); });
  }
}

}  // namespace loci
