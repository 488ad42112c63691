#include "loci/data/ram/ram_node_tasks.h"

#include <algorithm>
#include <array>
#include <numeric>

namespace loci {
namespace {

constexpr uint32_t kListHeader = 3;  // head, k or v, out

struct Placement {
  std::vector<uint32_t> nodes;
  std::vector<uint32_t> free_cells;
};

// Allocates `count` nodes of `width` cells in the cells from `begin` on: every choice of cells is equally likely, and
// the nodes are in random order.
Placement allocate_nodes(int64_t count, uint32_t width, uint32_t begin, uint32_t M, RandomSequence& random) {
  Placement placed;
  uint64_t left = static_cast<uint64_t>(count);
  uint64_t slots = (M - begin) - left * (width - 1);
  for (uint32_t cell = begin; slots > 0; --slots) {
    if (random.below(slots) < left) {
      placed.nodes.push_back(cell);
      cell += width;
      --left;
    } else {
      placed.free_cells.push_back(cell++);
    }
  }
  random.shuffle(placed.nodes);
  return placed;
}

uint32_t out_address(bool pointer, uint32_t slot, const Placement& placed, RandomSequence& random) {
  return pointer ? placed.free_cells[random.below(placed.free_cells.size())] : slot;
}

// Writes the next pointers of a list that visits the nodes in their order.
void link_nodes(Tape& tape, const std::vector<uint32_t>& nodes) {
  tape[0] = nodes.front();
  for (size_t i = 0; i < nodes.size(); ++i) tape[nodes[i]] = i + 1 < nodes.size() ? nodes[i + 1] : 0;
}

void require_node(std::string_view who, std::span<const uint32_t> tape, uint32_t node, uint32_t begin, uint32_t width) {
  require_tape(who, node >= begin && uint64_t{node} + width <= tape.size(),
               fmt::format("node must be a cell {}..{}", begin, tape.size() - width), node);
}

RamAnswer one_cell(uint32_t cell, uint32_t value) {
  return {.cells = {cell}, .values = {value}, .weights = {}};
}

Tape generate_listk(bool out_pointer, int64_t n, uint32_t M, RandomSequence& random) {
  const Placement placed = allocate_nodes(n, 2, kListHeader, M, random);
  Tape tape(M, 0);
  link_nodes(tape, placed.nodes);
  for (const uint32_t node : placed.nodes) tape[node + 1] = static_cast<uint32_t>(random.between(1, M - 1));
  tape[1] = static_cast<uint32_t>(random.below(static_cast<uint64_t>(n)));
  tape[2] = out_address(out_pointer, 2, placed, random);
  return tape;
}

RamAnswer solve_listk(std::span<const uint32_t> tape) {
  check_tape("listk", tape);
  uint32_t node = tape[0];
  require_node("listk", tape, node, kListHeader, 2);
  for (uint32_t hop = 0; hop < tape[1]; ++hop) {
    node = tape[node];
    require_tape("listk", node != 0, fmt::format("k must be below the length of the list ({})", hop + 1), tape[1]);
    require_node("listk", tape, node, kListHeader, 2);
  }
  return one_cell(tape[2], tape[node + 1]);
}

Tape generate_listsearch(bool out_pointer, int64_t n, uint32_t M, RandomSequence& random) {
  const Placement placed = allocate_nodes(n, 2, kListHeader, M, random);
  Tape tape(M, 0);
  link_nodes(tape, placed.nodes);
  const size_t target = random.below(static_cast<uint64_t>(n));
  const auto wanted = static_cast<uint32_t>(random.between(1, M - 1));
  const auto any_value = [&] {
    return random.below(4) == 0 ? wanted : static_cast<uint32_t>(random.between(1, M - 1));
  };
  for (size_t i = 0; i < placed.nodes.size(); ++i) {
    uint32_t value = wanted;
    if (i < target) {
      value = static_cast<uint32_t>(random.between(1, M - 2));
      value += value >= wanted;
    } else if (i > target) {
      value = any_value();
    }
    tape[placed.nodes[i] + 1] = value;
  }
  for (const uint32_t cell : placed.free_cells) tape[cell] = any_value();
  tape[1] = wanted;
  tape[2] = out_address(out_pointer, 2, placed, random);
  return tape;
}

RamAnswer solve_listsearch(std::span<const uint32_t> tape) {
  check_tape("listsearch", tape);
  uint32_t node = tape[0];
  for (size_t visited = 0; visited < tape.size(); ++visited) {
    require_tape("listsearch", node != 0, "v must be the value of a node", tape[1]);
    require_node("listsearch", tape, node, kListHeader, 2);
    if (tape[node + 1] == tape[1]) return one_cell(tape[2], node);
    node = tape[node];
  }
  fail(ExitCode::usage, "listsearch", "list must end with NULL", "a cycle");
}

// A search tree into which the values were inserted in order; node i holds values[i].
struct SearchTree {
  std::vector<std::array<size_t, 2>> children;  // 0: none (node 0 is the root and no child)
  std::vector<std::vector<uint32_t>> paths;     // from the root: 0 left, 1 right

  explicit SearchTree(const std::vector<uint32_t>& values) : children(values.size()), paths(values.size()) {
    for (size_t i = 1; i < values.size(); ++i) {
      size_t node = 0;
      for (;;) {
        const uint32_t side = values[i] > values[node];
        paths[i].push_back(side);
        if (children[node][side] == 0) {
          children[node][side] = i;
          break;
        }
        node = children[node][side];
      }
    }
  }
};

Tape generate_walkbst(bool out_pointer, int64_t n, uint32_t M, RandomSequence& random) {
  std::vector<uint32_t> values(M - 1);
  std::iota(values.begin(), values.end(), 1U);
  random.shuffle(values);
  values.resize(static_cast<size_t>(n));
  const SearchTree tree(values);
  std::vector<size_t> ends;
  for (size_t i = 0; i < values.size(); ++i) {
    if (tree.children[i][0] == 0) ends.push_back(i);
  }
  const std::vector<uint32_t>& path = tree.paths[ends[random.below(ends.size())]];

  const Placement placed = allocate_nodes(n, 3, static_cast<uint32_t>(path.size()) + 3, M, random);
  Tape tape(M, 0);
  tape[0] = placed.nodes[0];
  tape[1] = out_address(out_pointer, 1, placed, random);
  std::copy(path.begin(), path.end(), tape.begin() + 2);
  for (size_t i = 0; i < values.size(); ++i) {
    tape[placed.nodes[i]] = values[i];
    for (uint32_t side = 0; side < 2; ++side) {
      const size_t child = tree.children[i][side];
      tape[placed.nodes[i] + 1 + side] = child == 0 ? 0 : placed.nodes[child];
    }
  }
  return tape;
}

// NULL is 0 and so is "left": the path therefore ends at the first node that lacks the next child.
RamAnswer solve_walkbst(std::span<const uint32_t> tape) {
  check_tape("walkbst", tape);
  uint32_t node = tape[0];
  for (size_t i = 2; i < tape.size(); ++i) {
    require_node("walkbst", tape, node, 3, 3);
    require_tape("walkbst", tape[i] <= 1, fmt::format("path at cell {} must be 0 (left) or 1 (right)", i), tape[i]);
    const uint32_t child = tape[node + 1 + tape[i]];
    if (child == 0) return one_cell(tape[1], tape[node]);
    node = child;
  }
  fail(ExitCode::usage, "walkbst", "path must end at a node without that child", "a path without end");
}

template <class Generate>
auto with_out(Generate generate, bool out_pointer) {
  return [=](int64_t n, uint32_t M, RandomSequence& random) { return generate(out_pointer, n, M, random); };
}

}  // namespace

RamTask listk_task(bool out_pointer) {
  return {.name = "listk",
          .layout = "head, k, out, nodes (next, value) anywhere; 0 <= k < n  ->  cell `out` := value after k hops",
          .tape_size = {2, 3 + out_pointer},
          .reference_steps = {1, 4},
          .training_steps = {1, 5},
          .generate = with_out(generate_listk, out_pointer),
          .solve = solve_listk};
}

RamTask listsearch_task(bool out_pointer) {
  return {.name = "listsearch",
          .layout = "head, v, out, nodes (next, value) anywhere  ->  cell `out` := address of the first node with v",
          .tape_size = {2, 3 + out_pointer},
          .reference_steps = {2, 3},
          .training_steps = {2, 4},
          .generate = with_out(generate_listsearch, out_pointer),
          .solve = solve_listsearch};
}

RamTask walkbst_task(bool out_pointer) {
  return {.name = "walkbst",
          .layout =
              "root, out, d_1 .. d_k, NULL, nodes (value, left, right) anywhere; d = 0 left, 1 right  ->  cell "
              "`out` := value at the end of the path",
          .tape_size = {4, 2 + out_pointer},
          .reference_steps = {2, 3},
          .training_steps = {2, 4},
          .generate = with_out(generate_walkbst, out_pointer),
          .solve = solve_walkbst};
}

}  // namespace loci
