#include "loci/program/export_text.h"

#include <algorithm>

#include "loci/program/pattern_tree.h"
#include "loci/program/prune.h"

namespace loci {
namespace {

using Role = RamModule::Role;

std::string replace_first(std::string text, std::string_view from, const std::string& to) {
  const size_t at = text.find(from);
  return at == std::string::npos ? text : text.replace(at, from.size(), to);
}

// The statements of one circuit. An output that is used once becomes part of the expression that uses it. The value
// that READ read gets a name, since the cell may change later in the step, unless a WRITE stores it before any other
// WRITE.
class CircuitText {
 public:
  CircuitText(const CircuitShape& shape, const Circuit& circuit)
      : shape_(shape), circuit_(circuit), expressions_(static_cast<size_t>(shape.registers + shape.size())) {
    for (int r = 0; r < shape.registers; ++r) expressions_[static_cast<size_t>(r)] = {fmt::format("r{}", r), false};
  }

  std::string text() {
    for (int i = 0; i < shape_.size(); ++i) {
      if (circuit_.modules[static_cast<size_t>(i)].kept) add_module(i);
    }
    std::vector<std::string> targets, values;
    for (size_t r = 0; r < circuit_.sources.size(); ++r) {
      if (circuit_.sources[r] == r) continue;
      targets.push_back(fmt::format("r{}", r));
      values.push_back(expressions_[circuit_.sources[r]].text);
    }
    if (!targets.empty()) statements_.push_back(fmt::format("{}={}", fmt::join(targets, ","), fmt::join(values, ",")));
    if (circuit_.stop) statements_.push_back("stop");
    return statements_.empty() ? "{ }" : fmt::format("{{ {} }}", fmt::join(statements_, "; "));
  }

 private:
  struct Expression {
    std::string text;
    bool infix = false;
  };

  // How often modules and registers use an output, and the last module that does.
  struct Uses {
    int count = 0;
    int module = -1;
  };
  Uses uses(int source) const {
    Uses found;
    for (int i = 0; i < shape_.size(); ++i) {
      const Circuit::Module& wires = circuit_.modules[static_cast<size_t>(i)];
      if (!wires.kept) continue;
      const int operands = shape_.module(i).operands;
      const int here = (operands >= 1 && wires.a == source) + (operands >= 2 && wires.b == source);
      found.count += here;
      if (here > 0) found.module = i;
    }
    for (const uint16_t used : circuit_.sources) found.count += used == source;
    return found;
  }

  bool stored_at_once(int read, const Uses& use) const {
    if (use.count != 1 || use.module < 0 || shape_.module(use.module).role != Role::write) return false;
    const Circuit::Module& write = circuit_.modules[static_cast<size_t>(use.module)];
    if (write.b != shape_.registers + read) return false;
    for (int i = read + 1; i < use.module; ++i) {
      if (circuit_.modules[static_cast<size_t>(i)].kept && shape_.module(i).role == Role::write) return false;
    }
    return true;
  }

  std::string name() {
    static const std::string letters = "tuvw";
    const size_t index = names_++;
    return index < letters.size() ? std::string(1, letters[index]) : fmt::format("t{}", index);
  }

  std::string operand(uint16_t source, bool inside_infix) const {
    const Expression& expression = expressions_[source];
    return expression.infix && inside_infix ? fmt::format("({})", expression.text) : expression.text;
  }

  void add_module(int i) {
    const RamModule& module = shape_.module(i);
    const Circuit::Module& wires = circuit_.modules[static_cast<size_t>(i)];
    if (module.role == Role::write) {
      statements_.push_back(fmt::format("mem[{}]={}", operand(wires.a, false), operand(wires.b, false)));
      return;
    }
    Expression expression;
    if (module.role == Role::read) {
      expression.text = fmt::format("mem[{}]", operand(wires.a, false));
    } else {
      expression.infix = module.text.starts_with("{a}");
      expression.text = module.text;
      if (module.text.empty()) {
        expression.text = module.name + (module.operands == 0 ? "()" : module.operands == 1 ? "({a})" : "({a},{b})");
      }
      expression.text = replace_first(expression.text, "{b}", operand(wires.b, expression.infix));
      expression.text = replace_first(expression.text, "{a}", operand(wires.a, expression.infix));
    }
    const Uses use = uses(shape_.registers + i);
    const bool in_place = module.role == Role::read ? stored_at_once(i, use) : use.count == 1 || module.operands == 0;
    if (!in_place) {
      const std::string temporary = name();
      statements_.push_back(fmt::format("{}={}", temporary, expression.text));
      expression = {temporary, false};
    }
    expressions_[static_cast<size_t>(shape_.registers + i)] = expression;
  }

  const CircuitShape& shape_;
  const Circuit& circuit_;
  std::vector<Expression> expressions_;  // by source
  std::vector<std::string> statements_;
  size_t names_ = 0;
};

void write_tree(const RamProgram& program, const PatternTree& tree, const std::string& indent, std::string_view prefix,
                std::string& text) {
  if (tree.is_answer()) {
    const Circuit& circuit = program.circuits()[static_cast<size_t>(tree.row)];
    text += fmt::format("{}{}: {}\n", indent, prefix, CircuitText(program.shape(), circuit).text());
    return;
  }
  const bool zero_first = tree.zero->is_answer() || !tree.nonzero->is_answer();
  const PatternTree& first = zero_first ? *tree.zero : *tree.nonzero;
  const PatternTree& second = zero_first ? *tree.nonzero : *tree.zero;
  const std::string condition =
      fmt::format("{}{}if r{}{}0", prefix, prefix.empty() ? "" : " ", tree.asked, zero_first ? "==" : "!=");
  if (first.is_answer()) {
    write_tree(program, first, indent, condition, text);
  } else {
    text += fmt::format("{}{}:\n", indent, condition);
    write_tree(program, first, indent + "  ", "", text);
  }
  write_tree(program, second, indent, "else", text);
}

}  // namespace

std::string to_text(const RamProgram& program) {
  const RamProgram simple = simplify(program);
  const PatternTree tree = pattern_tree(simple);
  if (tree.is_answer() && tree.row == RamProgram::kUnseen) return "# no pattern was seen\n";
  std::string text;
  write_tree(simple, tree, "", tree.is_answer() ? "always" : "", text);
  const auto unseen = std::count(simple.table().begin(), simple.table().end(), RamProgram::kUnseen);
  if (unseen > 0) {
    text += fmt::format("# {} of {} patterns of zero registers were never seen: there the program gives up\n", unseen,
                        simple.table().size());
  }
  return text;
}

}  // namespace loci
