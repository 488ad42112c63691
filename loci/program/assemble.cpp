#include "loci/program/assemble.h"

#include <algorithm>
#include <charconv>
#include <optional>
#include <string>

namespace loci {
namespace {

using Words = std::vector<std::string>;

Words split_words(std::string_view text, char separator) {
  Words parts;
  for (size_t begin = 0; begin <= text.size();) {
    const size_t end = std::min(text.find(separator, begin), text.size());
    std::string part;
    for (const char c : text.substr(begin, end - begin)) {
      if (c != ' ' && c != '\n') part += c;
    }
    parts.push_back(part);
    begin = end + 1;
  }
  return parts;
}

[[noreturn]] void refuse_source(std::string_view expected, std::string_view got) {
  fail(ExitCode::usage, "assemble", expected, fmt::format("\"{}\"", got));
}

class Assembler {
 public:
  explicit Assembler(int registers) : shape_{.registers = registers} { check_shape("assemble", shape_); }

  RamProgram program(std::string_view text) {
    std::vector<Circuit> circuits;
    std::vector<int32_t> table(size_t{1} << shape_.registers, RamProgram::kUnseen);
    for (const std::string& row : split_words(text, '|')) {
      const size_t colon = row.find(':');
      if (colon == std::string::npos) refuse_source("row must be \"condition: statements\"", row);
      const Condition condition = read_condition(row.substr(0, colon));
      for (uint32_t pattern = 0; pattern < table.size(); ++pattern) {
        if (table[pattern] == RamProgram::kUnseen && (pattern & condition.mask) == condition.zeros) {
          table[pattern] = static_cast<int32_t>(circuits.size());
        }
      }
      circuits.push_back(read_circuit(row.substr(colon + 1)));
    }
    return RamProgram(shape_, std::move(circuits), std::move(table));
  }

 private:
  struct Condition {
    uint32_t mask = 0;   // registers that are asked about
    uint32_t zeros = 0;  // those that must be zero
  };

  std::optional<int> register_index(std::string_view word) const {
    int index = 0;
    if (word.size() < 2 || word[0] != 'r') return std::nullopt;
    const auto [end, error] = std::from_chars(word.data() + 1, word.data() + word.size(), index);
    const bool good =
        error == std::errc() && end == word.data() + word.size() && index >= 0 && index < shape_.registers;
    return good ? std::optional(index) : std::nullopt;
  }

  Condition read_condition(const std::string& text) const {
    Condition condition;
    if (text == "else") return condition;
    for (const std::string& word : split_words(text, ',')) {
      const bool zero = word.ends_with('z') && !word.ends_with("nz");
      const auto index = register_index(word.substr(0, word.size() - std::min<size_t>(word.size(), zero ? 1 : 2)));
      if (!index || !word.ends_with('z')) refuse_source("condition must be like r0z, r1nz or else", word);
      condition.mask |= 1U << *index;
      condition.zeros |= static_cast<uint32_t>(zero) << *index;
    }
    return condition;
  }

  int module_index(std::string_view name) const {
    for (int i = 0; i < shape_.size(); ++i) {
      if (shape_.module(i).name == name) return i;
    }
    refuse_source("module must be one of READ ZERO ONE TWO INC ADD SUB DEC LT LE EQ MIN MAX WRITE", name);
  }

  uint16_t source(const std::string& word) const {
    const auto index = register_index(word);
    return static_cast<uint16_t>(index ? *index : shape_.registers + module_index(word));
  }

  Circuit read_circuit(const std::string& text) const {
    Circuit circuit = idle_circuit(shape_);
    bool write = false;
    for (const std::string& statement : split_words(text, ';')) {
      const size_t open = statement.find('(');
      const size_t equal = statement.find('=');
      if (statement == "stop") {
        circuit.stop = true;
      } else if (equal != std::string::npos) {
        const auto target = register_index(statement.substr(0, equal));
        if (!target) refuse_source("register must exist", statement.substr(0, equal));
        circuit.sources[static_cast<size_t>(*target)] = source(statement.substr(equal + 1));
      } else if (statement.starts_with("READr")) {
        circuit.modules[0].a = source(statement.substr(4));
      } else if (open != std::string::npos && statement.ends_with(')')) {
        const std::string name = statement.substr(0, open);
        const auto index = static_cast<size_t>(module_index(name));
        const Words operands = split_words(statement.substr(open + 1, statement.size() - open - 2), ',');
        if (operands.size() != static_cast<size_t>(shape_.modules[index].operands)) {
          refuse_source(fmt::format("{} must have {} operands", name, shape_.modules[index].operands), statement);
        }
        circuit.modules[index].a = source(operands[0]);
        if (operands.size() == 2) circuit.modules[index].b = source(operands[1]);
        write = write || name == "WRITE";
      } else {
        refuse_source("statement must be like INC(READ), READ r1, r0=INC or stop", statement);
      }
    }
    if (!write) circuit.modules.back().a = circuit.modules[0].a;
    return circuit;
  }

  CircuitShape shape_;
};

}  // namespace

RamProgram assemble(int registers, std::string_view text) {
  return Assembler(registers).program(text);
}

}  // namespace loci
