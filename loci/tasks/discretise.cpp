#include "loci/tasks/discretise.h"

#include <algorithm>
#include <memory>
#include <string>
#include <unordered_map>

#include "loci/base/check.h"

namespace loci {
namespace {

std::vector<float> input_of(uint32_t pattern, int registers) {
  std::vector<float> x;
  for (int r = 0; r < registers; ++r) x.push_back((pattern >> r & 1) != 0 ? 1.0F : 0.0F);
  return x;
}

// Circuits by content, so that equal ones share a row.
class CircuitRows {
 public:
  int32_t row_of(const Circuit& circuit) {
    const auto [place, is_new] = row_by_content_.emplace(content_of(circuit), static_cast<int32_t>(circuits_.size()));
    if (is_new) circuits_.push_back(circuit);
    return place->second;
  }
  std::vector<Circuit> take() { return std::move(circuits_); }

 private:
  static std::string content_of(const Circuit& circuit) {
    std::string content(1, circuit.stop ? '1' : '0');
    const auto add = [&content](uint16_t source) {
      content += static_cast<char>(source & 0xff);
      content += static_cast<char>(source >> 8);
    };
    for (const Circuit::Module& module : circuit.modules) {
      add(module.a);
      add(module.b);
    }
    for (const uint16_t source : circuit.sources) add(source);
    return content;
  }

  std::vector<Circuit> circuits_;
  std::unordered_map<std::string, int32_t> row_by_content_;
};

}  // namespace

CircuitShape circuit_shape(const NeuralRamOptions& options) {
  return {.registers = static_cast<int>(options.registers),
          .modules = options.modules,
          .repeats = static_cast<int>(options.repeats)};
}

Circuit circuit_of(const CircuitShape& shape, const std::vector<float>& logits) {
  Circuit circuit;
  auto at = logits.begin();
  const auto likeliest = [&at](int length) {
    const auto best = std::max_element(at, at + length);  // the first of equals
    const auto source = static_cast<uint16_t>(best - at);
    at += length;
    return source;
  };
  for (int i = 0; i < shape.size(); ++i) {
    Circuit::Module module;
    if (shape.module(i).operands > 0) module.a = likeliest(shape.registers + i);
    if (shape.module(i).operands > 1) module.b = likeliest(shape.registers + i);
    circuit.modules.push_back(module);
  }
  for (int r = 0; r < shape.registers; ++r) circuit.sources.push_back(likeliest(shape.registers + shape.size()));
  circuit.stop = *at > 0;
  return circuit;
}

RamProgram discretise(const NeuralRam& machine, int64_t seed_index, const std::function<void()>& between) {
  const NeuralRamOptions& options = machine.options();
  if (options.controller == "lstm") {
    fail(ExitCode::usage, "program",
         "a program must come from an mlp controller, since an lstm's circuits depend on its past", "lstm");
  }
  if (options.registers > kMostRegisters) {
    fail(ExitCode::usage, "program", fmt::format("registers must be at most {} for a table", kMostRegisters),
         fmt::to_string(options.registers));
  }
  const CircuitShape shape = circuit_shape(options);
  NeuralRamController controller(machine, seed_index);
  CircuitRows rows;
  std::vector<int32_t> table;
  for (uint32_t pattern = 0; pattern < uint32_t{1} << shape.registers; ++pattern) {
    if (between && pattern % 64 == 0) between();
    table.push_back(rows.row_of(circuit_of(shape, controller(input_of(pattern, shape.registers)))));
  }
  return RamProgram(shape, rows.take(), std::move(table));
}

RamRunner discrete_runner(const NeuralRam& machine, int64_t seed_index, const std::function<void()>& between) {
  if (machine.options().controller == "mlp") {
    const auto program = std::make_shared<RamProgram>(discretise(machine, seed_index, between));
    return [program, between](std::span<uint32_t> tape, uint32_t most) {
      if (between) between();
      return program->run(tape, most);
    };
  }
  const auto shape = std::make_shared<CircuitShape>(circuit_shape(machine.options()));
  const auto controller = std::make_shared<NeuralRamController>(machine, seed_index);
  return [shape, controller, between](std::span<uint32_t> tape, uint32_t most) {
    if (between) between();
    controller->start();
    Circuit circuit;
    const NextCircuit next = [&](uint32_t pattern) {
      circuit = circuit_of(*shape, (*controller)(input_of(pattern, shape->registers)));
      return &circuit;
    };
    return run_machine(*shape, next, tape, most);
  };
}

}  // namespace loci
