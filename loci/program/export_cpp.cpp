#include "loci/program/export_cpp.h"

#include <algorithm>
#include <cctype>
#include <set>

#include "loci/program/prune.h"

namespace loci {
namespace {

using Role = RamModule::Role;

// Whether `word` is an identifier of this C++ expression.
bool mentions_identifier(std::string_view expression, std::string_view word) {
  const auto part_of_name = [](char c) { return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_'; };
  for (size_t at = expression.find(word); at != std::string_view::npos; at = expression.find(word, at + 1)) {
    const size_t end = at + word.size();
    const bool begins = at == 0 || !part_of_name(expression[at - 1]);
    if (begins && (end == expression.size() || !part_of_name(expression[end]))) return true;
  }
  return false;
}

// Registers whose zero bit changes the circuit of some pattern.
std::vector<int> choosing_registers(const RamProgram& program) {
  std::vector<int> choosing;
  for (int r = 0; r < program.shape().registers; ++r) {
    const size_t bit = size_t{1} << r;
    for (size_t p = 0; p < program.table().size(); ++p) {
      if (program.table()[p] != program.table()[p ^ bit]) {
        choosing.push_back(r);
        break;
      }
    }
  }
  return choosing;
}

class CppWriter {
 public:
  CppWriter(const RamProgram& program, std::string name)
      : program_(simplify(program)), shape_(program_.shape()), name_(std::move(name)) {}

  std::string text() {
    std::string rows;
    const std::vector<std::string> row_labels = labels();
    for (size_t row = 0; row < row_labels.size(); ++row) rows += case_text(program_.circuits()[row], row_labels[row]);
    std::string text =
        "// A program for a random-access machine, written by loci. It works on the cells mem[0 .. M-1], M >= 3, "
        "whose\n"
        "// values are below M. It returns the number of its steps, at most max_steps, or -1 for a pattern of zero\n"
        "// registers that has no circuit.\n"
        "#include <stdint.h>\n\n" +
        helpers() + declaration() + " {\n" + registers();
    text += fmt::format(
        "  for (uint32_t step = 0; step < max_steps; ++step) {{\n"
        "    switch ({}) {{  // which registers are zero\n{}"
        "      default:\n        return -1;\n    }}\n  }}\n"
        "  return static_cast<int>(max_steps);\n}}\n",
        pattern_text(), rows);
    return text;
  }

 private:
  std::string source_text(int source) {
    if (source >= shape_.registers) return fmt::format("o{}", source - shape_.registers);
    used_registers_.insert(source);
    return fmt::format("r{}", source);
  }

  std::string pattern_text() {
    std::vector<std::string> bits;
    for (size_t i = 0; i < choosing_.size(); ++i) {
      bits.push_back(fmt::format("(r{} == 0 ? {}U : 0U)", choosing_[i], size_t{1} << i));
    }
    return bits.empty() ? "0U" : fmt::format("{}", fmt::join(bits, " | "));
  }

  // The case labels of each circuit: its patterns of the choosing registers, one bit each.
  std::vector<std::string> labels() const {
    std::vector<std::string> all(program_.circuits().size());
    for (size_t small = 0; small < size_t{1} << choosing_.size(); ++small) {
      size_t pattern = 0;
      for (size_t i = 0; i < choosing_.size(); ++i) pattern |= (small >> i & 1) << choosing_[i];
      const int32_t row = program_.table()[pattern];
      if (row != RamProgram::kUnseen) all[static_cast<size_t>(row)] += fmt::format("      case {}U:\n", small);
    }
    return all;
  }

  std::string case_text(const Circuit& circuit, std::string labels) {
    labels.insert(labels.size() - 1, " {");  // after the last label
    std::string body;
    for (int i = 0; i < shape_.size(); ++i) {
      if (circuit.modules[static_cast<size_t>(i)].kept) body += "        " + module_text(circuit, i);
    }
    std::string assignments;
    for (int r = 0; r < shape_.registers; ++r) {
      const int source = circuit.sources[static_cast<size_t>(r)];
      if (source == r) continue;
      used_registers_.insert(r);
      body += fmt::format("        const uint32_t next{} = {};\n", r, source_text(source));
      assignments += fmt::format("        r{0} = next{0};\n", r);
    }
    return labels + body + assignments +
           (circuit.stop ? "        return static_cast<int>(step + 1);\n      }\n" : "        break;\n      }\n");
  }

  std::string module_text(const Circuit& circuit, int i) {
    const RamModule& module = shape_.module(i);
    const Circuit::Module& wires = circuit.modules[static_cast<size_t>(i)];
    if (module.role != Role::pure) {
      uses_memory_ = true;
      const std::string cell = fmt::format("mem[{}]", source_text(wires.a));
      return module.role == Role::read ? fmt::format("const uint32_t o{} = {};\n", i, cell)
                                       : fmt::format("{} = {};\n", cell, source_text(wires.b));
    }
    if (module.cpp.empty()) {
      fail(ExitCode::usage, "export_cpp", fmt::format("module {} must have a C++ form", module.name), "none");
    }
    const bool needs_size = mentions_identifier(module.cpp, "M");
    uses_size_ = uses_size_ || needs_size;
    if (module.operands == 0) return fmt::format("const uint32_t o{} = {};\n", i, module.cpp);
    std::vector<std::string> operands = {source_text(wires.a)};
    std::vector<std::string> parameters = {"uint32_t a"};
    if (module.operands == 2) {
      operands.push_back(source_text(wires.b));
      parameters.push_back("uint32_t b");
    }
    if (needs_size) {
      operands.push_back("M");
      parameters.push_back("uint32_t M");
    }
    helpers_.insert(
        fmt::format("uint32_t op_{}({}) {{ return {}; }}\n", module.name, fmt::join(parameters, ", "), module.cpp));
    return fmt::format("const uint32_t o{} = op_{}({});\n", i, module.name, fmt::join(operands, ", "));
  }

  std::string helpers() const {
    if (helpers_.empty()) return "";
    return fmt::format("namespace {{\n{}}}  // namespace\n\n", fmt::join(helpers_, ""));
  }

  std::string declaration() const {
    return fmt::format("int {}(uint32_t* {}, uint32_t {}, uint32_t max_steps)", name_, uses_memory_ ? "mem" : "/*mem*/",
                       uses_size_ ? "M" : "/*M*/");
  }

  std::string registers() {
    used_registers_.insert(choosing_.begin(), choosing_.end());
    std::string text;
    for (const int r : used_registers_) text += fmt::format("  uint32_t r{} = 0;\n", r);
    return text;
  }

  RamProgram program_;
  const CircuitShape& shape_;
  std::string name_;
  std::vector<int> choosing_ = choosing_registers(program_);
  std::set<int> used_registers_;
  std::set<std::string> helpers_;
  bool uses_memory_ = false;
  bool uses_size_ = false;
};

}  // namespace

std::string to_cpp(const RamProgram& program, const std::string& name) {
  return CppWriter(program, name).text();
}

}  // namespace loci
