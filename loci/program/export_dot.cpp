#include "loci/program/export_dot.h"

#include "loci/base/check.h"
#include "loci/program/pattern_tree.h"

namespace loci {
namespace {

using RowEdges = std::map<std::pair<std::string, std::string>, uint64_t>;

// A node for each module, for each register that is read (its old value), and for each that is set (its new one).
std::string circuit_cluster(const CircuitShape& shape, const Circuit& circuit, size_t row,
                            const std::string& condition) {
  const auto node = [&](int source) {
    return source < shape.registers ? fmt::format("c{}_r{}", row, source)
                                    : fmt::format("c{}_o{}", row, source - shape.registers);
  };
  std::vector<bool> reads(static_cast<size_t>(shape.registers), false);
  std::string nodes, edges;
  const auto edge = [&](int source, const std::string& to, std::string_view label) {
    if (source < shape.registers) reads[static_cast<size_t>(source)] = true;
    edges +=
        fmt::format("    {} -> {}{};\n", node(source), to, label.empty() ? "" : fmt::format(" [label=\"{}\"]", label));
  };
  for (int i = 0; i < shape.size(); ++i) {
    const Circuit::Module& wires = circuit.modules[static_cast<size_t>(i)];
    if (!wires.kept) continue;
    const std::string here = node(shape.registers + i);
    nodes += fmt::format("    {} [label=\"{}\"];\n", here, shape.source_name(shape.registers + i));
    const int operands = shape.module(i).operands;
    if (operands >= 1) edge(wires.a, here, operands == 2 ? "a" : "");
    if (operands >= 2) edge(wires.b, here, "b");
  }
  for (int r = 0; r < shape.registers; ++r) {
    const int source = circuit.sources[static_cast<size_t>(r)];
    if (source == r) continue;
    const std::string next = fmt::format("c{}_next{}", row, r);
    nodes += fmt::format("    {} [label=\"r{} :=\", shape=box];\n", next, r);
    edge(source, next, "");
  }
  for (int r = 0; r < shape.registers; ++r) {
    if (reads[static_cast<size_t>(r)]) nodes += fmt::format("    {} [label=\"r{}\", shape=box];\n", node(r), r);
  }
  return fmt::format(
      "  subgraph cluster_{0} {{\n    label=\"{1}\";\n    c{0} [label=\"row {0}\", shape=note];\n{2}{3}  }}\n", row,
      condition, nodes, edges);
}

RowEdges row_edges(const RamProgram& program, const PatternCounts& counts) {
  RowEdges edges;
  const auto row = [&](size_t pattern) {
    const int32_t index = program.table()[pattern];
    return index == RamProgram::kUnseen ? std::string("unseen") : fmt::format("c{}", index);
  };
  if (counts.runs > 0) edges[{"start", row(program.table().size() - 1)}] += counts.runs;
  for (const auto& [patterns, count] : counts.followed) edges[{row(patterns.first), row(patterns.second)}] += count;
  for (size_t pattern = 0; pattern < counts.last.size(); ++pattern) {
    if (counts.last[pattern] > 0) edges[{row(pattern), "end"}] += counts.last[pattern];
  }
  return edges;
}

}  // namespace

std::string to_dot(const RamProgram& program, const PatternCounts& counts) {
  if (counts.last.size() != program.table().size()) {
    fail(ExitCode::bug, "export_dot", fmt::format("counts must be of {} patterns", program.table().size()),
         fmt::to_string(counts.last.size()));
  }
  const RamProgram simple = simplify(program);
  std::string text =
      "digraph program {\n  compound=true;\n  node [shape=ellipse, fontname=\"monospace\"];\n"
      "  start [shape=circle];\n  end [shape=doublecircle];\n";
  const std::vector<std::string> labels = conditions(simple);
  for (size_t row = 0; row < simple.circuits().size(); ++row) {
    text += circuit_cluster(simple.shape(), simple.circuits()[row], row, labels[row]);
  }
  for (const auto& [ends, count] : row_edges(simple, counts)) {
    text += fmt::format("  {} -> {} [label=\"{}\", style=bold];\n", ends.first, ends.second, count);
  }
  return text + "}\n";
}

}  // namespace loci
