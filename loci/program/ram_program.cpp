#include "loci/program/ram_program.h"

#include <algorithm>
#include <utility>

namespace loci {
namespace {

// One run: values of the registers and of the outputs, the tape, and what a step does to them.
class MachineRun {
 public:
  MachineRun(const CircuitShape& shape, std::span<uint32_t> tape)
      : shape_(shape),
        tape_(tape),
        values_(static_cast<size_t>(shape.registers + shape.size()), 0),
        next_(static_cast<size_t>(shape.registers), 0) {}

  uint32_t pattern() const {
    uint32_t bits = 0;
    for (size_t r = 0; r < next_.size(); ++r) bits |= static_cast<uint32_t>(values_[r] == 0) << r;
    return bits;
  }

  void step(const Circuit& circuit, TraceStep* trace) {
    if (trace != nullptr) trace->registers.assign(values_.begin(), values_.begin() + shape_.registers);
    for (int i = 0; i < shape_.size(); ++i) {
      const Circuit::Module& wires = circuit.modules[static_cast<size_t>(i)];
      if (!wires.kept) continue;
      const uint32_t a = values_[wires.a];
      const uint32_t b = values_[wires.b];
      const uint32_t before = tape_[a];
      const uint32_t output = evaluate(shape_.module(i), a, b);
      values_[static_cast<size_t>(shape_.registers + i)] = output;
      if (trace != nullptr) trace->modules.push_back({.index = i, .a = a, .b = b, .output = output, .before = before});
    }
    for (size_t r = 0; r < next_.size(); ++r) next_[r] = values_[circuit.sources[r]];
    std::copy(next_.begin(), next_.end(), values_.begin());
    if (trace != nullptr) {
      trace->tape.assign(tape_.begin(), tape_.end());
      trace->stop = circuit.stop;
    }
  }

 private:
  uint32_t evaluate(const RamModule& module, uint32_t a, uint32_t b) {
    if (module.role == RamModule::Role::read) return tape_[a];
    if (module.role == RamModule::Role::write) return tape_[a] = b;
    const auto M = static_cast<uint32_t>(tape_.size());
    const uint32_t output = module.evaluate(a, b, M);
    if (output >= M) {
      fail(ExitCode::bug, "ram_program", fmt::format("output of module {} must be below {}", module.name, M),
           fmt::to_string(output));
    }
    return output;
  }

  const CircuitShape& shape_;
  std::span<uint32_t> tape_;
  std::vector<uint32_t> values_;  // R registers, Q outputs
  std::vector<uint32_t> next_;
};

std::string trace_text(const CircuitShape& shape, const TraceStep::Module& module) {
  const RamModule& kind = shape.module(module.index);
  const std::string name = shape.source_name(shape.registers + module.index);
  if (kind.role == RamModule::Role::write) {
    return fmt::format("{}({},{}) was {}", name, module.a, module.b, module.before);
  }
  if (kind.operands == 0) return name;
  if (kind.operands == 1) return fmt::format("{}({})={}", name, module.a, module.output);
  return fmt::format("{}({},{})={}", name, module.a, module.b, module.output);
}

}  // namespace

std::string_view name_of(StopReason reason) {
  switch (reason) {
    case StopReason::stopped:
      return "stopped";
    case StopReason::forced:
      return "forced stop";
    default:
      return "unseen pattern";
  }
}

RamRunResult run_machine(const CircuitShape& shape, const NextCircuit& next, std::span<uint32_t> tape,
                         uint32_t max_steps, Trace* trace) {
  check_tape("ram_program", tape);
  MachineRun machine(shape, tape);
  for (uint32_t step = 0; step < max_steps; ++step) {
    const uint32_t pattern = machine.pattern();
    const Circuit* circuit = next(pattern);
    if (circuit == nullptr) return {.steps = step, .reason = StopReason::unseen};
    if (trace != nullptr) trace->emplace_back().pattern = pattern;
    machine.step(*circuit, trace == nullptr ? nullptr : &trace->back());
    if (circuit->stop) return {.steps = step + 1, .reason = StopReason::stopped};
  }
  return {.steps = max_steps, .reason = StopReason::forced};
}

std::string to_text(const CircuitShape& shape, const Trace& trace) {
  std::string text;
  for (size_t t = 0; t < trace.size(); ++t) {
    const TraceStep& step = trace[t];
    std::vector<std::string> registers, modules, cells;
    for (size_t r = 0; r < step.registers.size(); ++r) registers.push_back(fmt::format("r{}={}", r, step.registers[r]));
    std::vector<bool> changed(step.tape.size(), false);
    for (const TraceStep::Module& module : step.modules) {
      modules.push_back(trace_text(shape, module));
      const bool write = shape.module(module.index).role == RamModule::Role::write;
      if (write && module.before != module.output) changed[module.a] = true;
    }
    for (size_t i = 0; i < step.tape.size(); ++i) {
      cells.push_back(changed[i] ? fmt::format("[{}]", step.tape[i]) : fmt::to_string(step.tape[i]));
    }
    text += fmt::format("step {}  {}\n  {}\n  tape {}\n{}", t + 1, fmt::join(registers, " "), fmt::join(modules, "  "),
                        fmt::join(cells, " "), step.stop ? "  stop\n" : "");
  }
  return text;
}

RamProgram::RamProgram(CircuitShape shape, std::vector<Circuit> circuits, std::vector<int32_t> table)
    : shape_(std::move(shape)), circuits_(std::move(circuits)), table_(std::move(table)) {
  check_shape("ram_program", shape_);
  for (const Circuit& circuit : circuits_) check_circuit("ram_program", shape_, circuit);
  if (table_.size() != size_t{1} << shape_.registers) {
    fail(ExitCode::input, "ram_program", fmt::format("table must have {} rows", size_t{1} << shape_.registers),
         fmt::to_string(table_.size()));
  }
  for (size_t pattern = 0; pattern < table_.size(); ++pattern) {
    const int64_t row = table_[pattern];
    if (row < kUnseen || row >= static_cast<int64_t>(circuits_.size())) {
      fail(ExitCode::input, "ram_program",
           fmt::format("table row {} must be -1 (unseen) or a circuit 0..{}", pattern,
                       static_cast<int64_t>(circuits_.size()) - 1),
           fmt::to_string(row));
    }
  }
}

RamRunResult RamProgram::run(std::span<uint32_t> tape, uint32_t max_steps, Trace* trace) const {
  const auto next = [this](uint32_t pattern) {
    const int32_t row = table_[pattern];
    return row == kUnseen ? nullptr : &circuits_[static_cast<size_t>(row)];
  };
  return run_machine(shape_, next, tape, max_steps, trace);
}

}  // namespace loci
