#include "loci/program/pattern_tree.h"

#include <algorithm>
#include <limits>
#include <utility>

namespace loci {
namespace {

using Patterns = std::vector<uint32_t>;

class TreeBuilder {
 public:
  explicit TreeBuilder(const RamProgram& program) : program_(program) {}

  PatternTree build(const Patterns& patterns) const {
    PatternTree tree;
    if (patterns.empty()) return tree;
    tree.row = program_.table()[patterns.front()];
    if (count_rows(patterns) == 1) return tree;
    size_t fewest = std::numeric_limits<size_t>::max();
    std::pair<Patterns, Patterns> best;
    for (int r = 0; r < program_.shape().registers; ++r) {
      auto sides = split(patterns, r);
      if (sides.first.empty() || sides.second.empty()) continue;
      const size_t rows = count_rows(sides.first) + count_rows(sides.second);
      if (rows >= fewest) continue;
      fewest = rows;
      tree.asked = r;
      best = std::move(sides);
    }
    tree.zero = std::make_unique<PatternTree>(build(best.first));
    tree.nonzero = std::make_unique<PatternTree>(build(best.second));
    return tree;
  }

 private:
  size_t count_rows(const Patterns& patterns) const {
    std::vector<int32_t> rows;
    for (const uint32_t pattern : patterns) rows.push_back(program_.table()[pattern]);
    std::sort(rows.begin(), rows.end());
    return static_cast<size_t>(std::unique(rows.begin(), rows.end()) - rows.begin());
  }

  static std::pair<Patterns, Patterns> split(const Patterns& patterns, int r) {
    std::pair<Patterns, Patterns> sides;
    for (const uint32_t pattern : patterns) ((pattern >> r & 1) != 0 ? sides.first : sides.second).push_back(pattern);
    return sides;
  }

  const RamProgram& program_;
};

void collect_conditions(const PatternTree& tree, const std::string& path, std::vector<std::string>& conditions) {
  if (tree.is_answer()) {
    if (tree.row == RamProgram::kUnseen) return;
    std::string& condition = conditions[static_cast<size_t>(tree.row)];
    if (!condition.empty()) condition += " or ";
    condition += path.empty() ? "always" : path;
    return;
  }
  const std::string prefix = path.empty() ? "" : path + " and ";
  collect_conditions(*tree.zero, fmt::format("{}r{}==0", prefix, tree.asked), conditions);
  collect_conditions(*tree.nonzero, fmt::format("{}r{}!=0", prefix, tree.asked), conditions);
}

}  // namespace

PatternTree pattern_tree(const RamProgram& program) {
  Patterns seen;
  for (uint32_t pattern = 0; pattern < program.table().size(); ++pattern) {
    if (program.table()[pattern] != RamProgram::kUnseen) seen.push_back(pattern);
  }
  return TreeBuilder(program).build(seen);
}

std::vector<std::string> conditions(const RamProgram& program) {
  std::vector<std::string> all(program.circuits().size());
  collect_conditions(pattern_tree(program), "", all);
  return all;
}

}  // namespace loci
