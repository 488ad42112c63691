#include "loci/data/ram/ram_tasks.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <optional>
#include <set>

#include "loci/base/check.h"

namespace loci::ram_tasks_test {
namespace {

using testing::Each;
using testing::HasSubstr;

Tape solved(const RamTask& task, Tape tape) {
  const RamAnswer answer = task.solve(tape);
  for (size_t i = 0; i < answer.cells.size(); ++i) tape[answer.cells[i]] = answer.values[i];
  return tape;
}

TEST(RamTasks, WorkedExamples) {
  const std::vector<std::tuple<std::string, Tape, Tape>> examples = {
      {"access", {2, 5, 3, 4, 0, 0}, {4, 5, 3, 4, 0, 0}},
      {"increment", {3, 6, 1, 0, 0, 0, 0, 0}, {4, 7, 2, 0, 0, 0, 0, 0}},
      {"copy", {4, 5, 2, 7, 0, 0, 0, 0}, {4, 5, 2, 7, 5, 2, 7, 0}},
      {"reverse", {4, 5, 2, 7, 0, 0, 0, 0}, {4, 5, 2, 7, 7, 2, 5, 0}},
      {"swap", {3, 5, 4, 6, 1, 7, 0, 0}, {3, 5, 4, 7, 1, 6, 0, 0}},
      {"permutation", {4, 2, 0, 1, 5, 6, 7, 0}, {4, 7, 5, 6, 5, 6, 7, 0}},
      {"listk", {7, 1, 2, 5, 9, 0, 6, 3, 4, 0}, {7, 1, 9, 5, 9, 0, 6, 3, 4, 0}},
      {"listsearch", {7, 6, 2, 5, 9, 0, 6, 3, 4, 6}, {7, 6, 5, 5, 9, 0, 6, 3, 4, 6}},
      {"merge", {3, 6, 8, 2, 7, 10, 4, 10, 0, 0, 0}, {3, 6, 8, 2, 7, 10, 4, 10, 2, 4, 7}},
      {"walkbst", {7, 1, 1, 0, 8, 0, 0, 5, 11, 4, 0, 2, 0, 0}, {7, 8, 1, 0, 8, 0, 0, 5, 11, 4, 0, 2, 0, 0}},
  };
  ASSERT_EQ(examples.size(), ram_task_names().size());
  for (size_t i = 0; i < examples.size(); ++i) {
    const auto& [name, tape, expected] = examples[i];
    EXPECT_EQ(ram_task_names()[i], name);
    EXPECT_EQ(solved(ram_task(name), tape), expected) << name;
  }
}

TEST(RamTasks, IndexBaseOneReadsCellK) {
  EXPECT_EQ(ram_task("access", {.index_base = 1}).solve(Tape{2, 5, 3, 4, 0, 0}).values, (Tape{3}));
}

// What each task promises, checked from the tape by other means than the oracle's; `expected` is the whole tape.
struct Facts {
  std::vector<uint32_t> elements;        // that must be 1 .. M-1
  std::set<uint32_t> used;               // cells; all others are 0, unless the task has trash
  std::map<uint32_t, uint32_t> outputs;  // cell to value
};

Facts array_facts(const std::string& name, uint32_t n, const Tape& tape) {
  Facts f;
  const auto array = [&](uint32_t begin, uint32_t count) {
    for (uint32_t i = begin; i < begin + count; ++i) {
      f.used.insert(i);
      f.elements.push_back(tape[i]);
    }
    return std::vector<uint32_t>(tape.begin() + begin, tape.begin() + begin + count);
  };
  if (name == "access") {
    f.used = {0};
    f.outputs[0] = array(1, n).at(tape[0]);
  } else if (name == "increment") {
    const auto elements = array(0, n);
    for (uint32_t i = 0; i < n; ++i) f.outputs[i] = elements[i] + 1;
  } else if (name == "copy" || name == "reverse") {
    f.used = {0};
    EXPECT_EQ(tape[0], n + 1);
    auto elements = array(1, n);
    if (name == "reverse") std::reverse(elements.begin(), elements.end());
    for (uint32_t i = 0; i < n; ++i) f.outputs[n + 1 + i] = elements[i];
  } else if (name == "swap") {
    f.used = {0, 1};
    EXPECT_LT(tape[0], tape[1]);
    auto elements = array(2, n);
    std::swap(elements.at(tape[0] - 2), elements.at(tape[1] - 2));
    for (uint32_t i = 0; i < n; ++i) f.outputs[2 + i] = elements[i];
  } else if (name == "permutation") {
    EXPECT_EQ(tape[0], n + 1);
    const auto values = array(n + 1, n);
    for (uint32_t i = 0; i <= n; ++i) f.used.insert(i);
    for (uint32_t i = 0; i < n; ++i) f.outputs[1 + i] = values.at(tape[1 + i]);
    EXPECT_EQ(std::set<uint32_t>(tape.begin() + 1, tape.begin() + 1 + n).size(), n);
  } else if (name == "merge") {
    const uint32_t first = tape[1] - 4;
    f.used = {0, 1, 2, 3 + first, 4 + n};
    EXPECT_THAT((std::vector<uint32_t>{tape[3 + first], tape[4 + n]}), Each(tape.size() - 1));
    auto all = array(3, first);
    const auto second = array(4 + first, n - first);
    EXPECT_TRUE(std::is_sorted(all.begin(), all.end()));
    EXPECT_TRUE(std::is_sorted(second.begin(), second.end()));
    all.insert(all.end(), second.begin(), second.end());
    std::sort(all.begin(), all.end());
    for (uint32_t i = 0; i < n; ++i) f.outputs[n + 5 + i] = all[i];
  }
  return f;
}

Facts list_facts(const std::string& name, uint32_t n, const Tape& tape) {
  Facts f;
  f.used = {0, 1, 2};
  std::vector<uint32_t> nodes;
  for (uint32_t node = tape[0]; node != 0 && nodes.size() <= n; node = tape[node]) nodes.push_back(node);
  EXPECT_EQ(nodes.size(), n);
  std::optional<uint32_t> found;
  for (const uint32_t node : nodes) {
    EXPECT_TRUE(f.used.insert(node).second && f.used.insert(node + 1).second) << "overlapping nodes";
    f.elements.push_back(tape[node + 1]);
    if (tape[node + 1] == tape[1] && !found) found = node;
  }
  if (name == "listk") {
    f.outputs[tape[2]] = tape[nodes.at(tape[1]) + 1];
  } else {
    f.outputs[tape[2]] = found.value();
    for (uint32_t cell = 3; cell < tape.size(); ++cell) {
      if (f.used.insert(cell).second) f.elements.push_back(tape[cell]);
    }
  }
  return f;
}

// The value is at the end of the path if a search for it in the tree takes the turns of the path.
Facts tree_facts(uint32_t n, const Tape& tape, uint32_t value) {
  Facts f;
  std::vector<uint32_t> turns;
  uint32_t node = tape[0];
  while (tape[node] != value && node != 0) {
    turns.push_back(value > tape[node]);
    node = tape[node + 1 + turns.back()];
  }
  EXPECT_NE(node, 0U) << "the answer must be a value of the tree";
  EXPECT_EQ(tape[node + 1], 0U) << "the end must have no left child";
  const auto steps = static_cast<uint32_t>(turns.size());
  EXPECT_EQ(turns, std::vector<uint32_t>(tape.begin() + 2, tape.begin() + 2 + steps));
  for (uint32_t i = 0; i < 3 + steps; ++i) f.used.insert(i);

  std::vector<uint32_t> in_order;
  const auto visit = [&](auto& self, uint32_t at) -> void {
    if (at == 0) return;
    self(self, tape[at + 1]);
    in_order.push_back(tape[at]);
    for (uint32_t i = 0; i < 3; ++i) EXPECT_TRUE(f.used.insert(at + i).second) << "overlapping nodes";
    self(self, tape[at + 2]);
  };
  visit(visit, tape[0]);
  EXPECT_EQ(in_order.size(), n);
  EXPECT_TRUE(std::adjacent_find(in_order.begin(), in_order.end(), std::greater_equal<>()) == in_order.end());
  f.elements = in_order;
  f.outputs[tape[1]] = value;
  return f;
}

TEST(RamTasks, GeneratorsKeepTheirPromisesAndOraclesAreRight) {
  for (const std::string& name : ram_task_names()) {
    for (const bool pointer : {false, true}) {
      const RamTask task = ram_task(name, {.out_pointer = pointer});
      RandomSequence random(CounterRandom(11, name));
      for (int64_t d = task.minimum_difficulty; d <= 16; ++d) {
        for (int instance = 0; instance < 45; ++instance) {
          const uint32_t M = task.minimum_tape(d) + static_cast<uint32_t>(instance % 3) * 5;
          const auto [tape, answer] = sample(task, d, M, random);
          ASSERT_EQ(tape.size(), M);
          const auto n = static_cast<uint32_t>(d);
          const Facts f = name == "walkbst"          ? tree_facts(n, tape, answer.values.at(0))
                          : name.starts_with("list") ? list_facts(name, n, tape)
                                                     : array_facts(name, n, tape);
          std::map<uint32_t, uint32_t> outputs;
          for (size_t i = 0; i < answer.cells.size(); ++i) outputs[answer.cells[i]] = answer.values[i];
          ASSERT_EQ(outputs, f.outputs) << name << " " << testing::PrintToString(tape);
          ASSERT_THAT(f.elements, Each(testing::AllOf(testing::Ge(1U), testing::Lt(M)))) << name;
          for (uint32_t cell = 0; cell < M; ++cell) {
            ASSERT_TRUE(tape[cell] == 0 || f.used.contains(cell)) << name << " cell " << cell;
          }
          if (!name.starts_with("list") && name != "walkbst") continue;
          const uint32_t slot = name == "walkbst" ? 1 : 2;
          ASSERT_EQ(tape[slot] == slot, !pointer);
          ASSERT_TRUE(!pointer || tape[slot] > slot);
        }
      }
      ASSERT_FALSE(testing::Test::HasFailure());
    }
  }
}

// Counts of a number that is uniform in 0 .. bins-1: six standard deviations around the mean.
void expect_uniform(const std::vector<int>& counts, const std::string& what) {
  const double draws = std::accumulate(counts.begin(), counts.end(), 0);
  const double p = 1.0 / static_cast<double>(counts.size());
  for (const int count : counts) EXPECT_NEAR(count, draws * p, 6 * std::sqrt(draws * p * (1 - p))) << what;
}

TEST(RamTasks, ChoicesAreUniform) {
  constexpr int kDraws = 6000;
  RandomSequence random(CounterRandom(3, "uniform"));
  std::vector<int> hops(5), target(5), first(6), slots(6);
  for (int i = 0; i < kDraws; ++i) {
    const Tape listk = sample(ram_task("listk"), 5, 23, random).tape;
    ++hops[listk[1]];
    const RamInstance search = sample(ram_task("listsearch"), 5, 23, random);
    size_t index = 0;
    for (uint32_t node = search.tape[0]; node != search.answer.values[0]; node = search.tape[node]) ++index;
    ++target[index];
    ++first[sample(ram_task("merge"), 5, 20, random).tape[1] - 4];
    // One node of two cells and five free ones: six places.
    ++slots[sample(ram_task("listk"), 1, 10, random).tape[0] - 3];
  }
  expect_uniform(hops, "hops of listk");
  expect_uniform(target, "target of listsearch");
  expect_uniform(first, "length of the first array of merge");
  expect_uniform(slots, "place of a node");
}

TEST(RamTasks, SwapWeighsTheTwoCellsAsTheRest) {
  const RamAnswer answer = ram_task("swap").solve(Tape{3, 5, 4, 6, 1, 7, 2, 0, 0});
  EXPECT_THAT(answer.weights, testing::ElementsAre(2.0 / 3, 1, 2.0 / 3, 1, 2.0 / 3));
  EXPECT_EQ(ram_task("swap").curriculum_error(1, 20), 0.5);
  EXPECT_EQ(ram_task("swap").curriculum_error(5, 20), 1);
  EXPECT_EQ(ram_task("copy").curriculum_error(5, 20), 0.25);
}

TEST(RamTasks, AnInstanceDependsOnItsPositionAlone) {
  for (const std::string& name : ram_task_names()) {
    RandomSequence first(CounterRandom(5, name));
    sample(ram_task(name), 4, 40, first);
    RandomSequence second(CounterRandom(5, name), first.position());
    EXPECT_EQ(sample(ram_task(name), 4, 40, first).tape, sample(ram_task(name), 4, 40, second).tape);
  }
}

TEST(RamTasks, ATaskOfOnesOwnIsAPairOfFunctions) {
  RamTask negate;
  negate.name = "negate";
  negate.tape_size = {1, 1};
  negate.generate = [](int64_t n, uint32_t M, RandomSequence& random) {
    Tape tape(M, 0);
    for (int64_t i = 0; i < n; ++i) tape[static_cast<size_t>(i)] = static_cast<uint32_t>(random.between(1, M - 1));
    return tape;
  };
  negate.solve = [](std::span<const uint32_t> tape) {
    RamAnswer answer;
    for (uint32_t i = 0; tape[i] != 0; ++i) {
      answer.cells.push_back(i);
      answer.values.push_back(static_cast<uint32_t>(tape.size()) - tape[i]);
    }
    return answer;
  };
  RandomSequence random(CounterRandom(1, "negate"));
  const RamInstance instance = sample(negate, 3, 9, random);
  EXPECT_EQ(instance.answer.cells, (Tape{0, 1, 2}));
  EXPECT_EQ(instance.answer.values[1], 9 - instance.tape[1]);
  EXPECT_EQ(wrong_cells(instance.answer, instance.tape), 3);
}

std::string message(const std::function<void()>& act) {
  try {
    act();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::usage);
    EXPECT_EQ(std::string(error.what()).find('\n'), std::string::npos);
    return error.what();
  }
  return "no error";
}

TEST(RamTasks, BadTapesGiveOneClearLine) {
  const std::vector<std::tuple<std::string, Tape, std::string>> cases = {
      {"copy", {4, 5, 2, 9, 0, 0, 0, 0}, "copy: value at cell 3 must be 0..7 (M=8), got 9"},
      {"copy", {5, 5, 2, 7, 1, 0, 0, 0}, "copy: tape must have at least 9 cells for 4 elements, got 8"},
      {"reverse", {4, 5, 0, 7, 0, 0, 0, 0}, "reverse: array element at cell 2 must not be NULL, got 0"},
      {"copy", {1, 0, 0}, "p (cell 0) must be n + 1, at least 2, got 1"},
      {"access", {3, 5, 3, 4, 0, 0}, "access: k must be 0..2, got 3"},
      {"access", {0, 0, 0}, "array must have at least 1 element"},
      {"access", {1, 1}, "tape must have at least 3 cells, got 2"},
      {"access", {}, "tape must have at least 3 cells, got 0"},
      {"access", {1, 1, 1}, "array must end with NULL (0), got none"},
      {"increment", {3, 7, 0, 0, 0, 0, 0, 0}, "element at cell 1 must be 1..6 (M=8), got 7"},
      {"swap", {5, 3, 4, 6, 1, 7, 0, 0}, "p < q must be cells 2..5, got p=5 q=3"},
      {"swap", {2, 3, 1, 0, 0}, "at least 2 elements, got 1"},
      {"permutation", {4, 2, 0, 2, 5, 6, 7, 0}, "cells 1..3 must hold each of 0..2 once, got 2 at cell 3"},
      {"permutation", {4, 2, 0, 1, 5, 6, 0, 0}, "element at cell 6 must not be NULL"},
      {"listk", {7, 3, 2, 5, 9, 0, 6, 3, 4, 0}, "k must be below the length of the list (3), got 3"},
      {"listk", {9, 1, 2, 5, 9, 0, 6, 3, 4, 0}, "node must be a cell 3..8, got 9"},
      {"listsearch", {7, 8, 2, 5, 9, 0, 6, 3, 4, 6}, "v must be the value of a node, got 8"},
      {"listsearch", {7, 8, 2, 7, 9, 0, 6, 3, 4, 6}, "list must end with NULL, got a cycle"},
      {"merge", {3, 6, 8, 7, 2, 10, 4, 10, 0, 0, 0}, "array must be sorted: cell 4 at least 7, got 2"},
      {"merge", {3, 6, 8, 2, 7, 9, 4, 10, 0, 0, 0}, "array must end with its guardian 10 at cell 5, got 9"},
      {"merge", {3, 6, 10, 2, 7, 10, 4, 10, 0, 0, 0}, "tape must have at least 15 cells for 5 elements, got 11"},
      {"walkbst", {7, 1, 2, 0, 8, 0, 0, 5, 11, 4, 0, 2, 0, 0}, "path at cell 2 must be 0 (left) or 1 (right), got 2"},
      {"walkbst", {7, 1, 1, 0, 8, 0, 0, 5, 11, 13, 0, 2, 0, 0}, "node must be a cell 3..11, got 13"},
      {"walkbst", {3, 1, 0, 0, 3, 3}, "walkbst"},
  };
  for (const auto& [name, tape, expected] : cases) {
    const Tape copy = tape;
    EXPECT_THAT(message([&, task = ram_task(name)] { task.solve(copy); }), HasSubstr(expected)) << name;
  }
}

TEST(RamTasks, UnknownNamesAndImpossibleSizesAreNamed) {
  EXPECT_THAT(message([] { ram_task("revers"); }), HasSubstr("got \"revers\" (did you mean \"reverse\"?)"));
  EXPECT_THAT(message([] { ram_task("access", {.index_base = 2}); }), HasSubstr("index_base must be 0 or 1, got 2"));
  RandomSequence random(CounterRandom(1, "bad"));
  EXPECT_THAT(message([&] { sample(ram_task("copy"), 4, 8, random); }),
              HasSubstr("copy: tape must have at least 9 cells for 4 elements, got 8"));
  EXPECT_THAT(message([&] { sample(ram_task("swap"), 1, 20, random); }), HasSubstr("difficulty must be 2.."));
  EXPECT_THAT(message([&] { sample(ram_task("copy"), int64_t{1} << 40, 20, random); }),
              HasSubstr("difficulty must be"));
}

}  // namespace
}  // namespace loci::ram_tasks_test
