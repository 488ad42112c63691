// The ten tasks of "Neural Random-Access Machines" (Kurach, Andrychowicz, Sutskever, ICLR 2016, arXiv 1511.06392 v3).
//
// An instance is a tape of M cells with values 0 .. M-1, 0 being NULL. The machine must leave the right values in the
// output cells; all others are ignored. n is the difficulty: the length of the array or list, of both arrays together,
// or the size of the tree.
//
// A task of the user is a pair of functions: `generate` draws a tape, `solve` says what the output must be.
//
//   RamTask negate;
//   negate.name = "negate";
//   negate.tape_size = {1, 1};       // n + 1 cells
//   negate.training_steps = {2, 3};  // 2 n + 3
//   negate.generate = [](int64_t n, uint32_t M, RandomSequence& random) { ... return tape; };
//   negate.solve = [](std::span<const uint32_t> tape) { RamAnswer answer; ... return answer; };
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "loci/base/random_sequence.h"
#include "loci/data/ram/ram_tape.h"

namespace loci {

// Of any task: every size then stays far below 2^32.
inline constexpr int64_t kMaximumDifficulty = 1'000'000;

// What a solved tape must hold: values[i] in cell cells[i].
struct RamAnswer {
  std::vector<uint32_t> cells;
  std::vector<uint32_t> values;
  std::vector<double> weights;  // of the cells in the loss; empty: 1 each
};

// A number of cells or steps as a function of the difficulty: slope * n + constant.
struct LinearSize {
  int64_t slope = 0;
  int64_t constant = 0;
  int64_t operator()(int64_t n) const { return slope * n + constant; }
};

struct RamTask {
  std::string name = {};
  std::string layout = {};  // of the input tape and the output cells, one line for readers
  int64_t minimum_difficulty = 1;
  LinearSize tape_size = {};        // cells that an instance needs; in training add slack to that of the last level
  LinearSize reference_steps = {};  // of the reference program, the stopping step included
  LinearSize training_steps = {};   // the most that a machine in training may take
  int64_t registers = 4;            // of the reference program
  // The number of wrong cells of an instance that counts as error 1 in the curriculum; 0: all output cells.
  int64_t curriculum_cells = 0;

  std::function<Tape(int64_t difficulty, uint32_t M, RandomSequence& random)> generate = {};
  // Throws Error (usage) that names the cell if the tape is no instance of the task.
  std::function<RamAnswer(std::span<const uint32_t> tape)> solve = {};

  uint32_t minimum_tape(int64_t difficulty) const;  // tape_size, at least 3
  // The error that the curriculum sees, from the wrong cells and the output cells of one instance.
  double curriculum_error(int64_t wrong, int64_t cells) const;
};

struct RamTaskOptions {
  int64_t index_base = 0;    // access: 0 reads A[k], the layout of the paper; 1 reads cell k, its trace
  bool out_pointer = false;  // listk, listsearch, walkbst: `out` points to a random free cell (else to itself)
};

// access, increment, copy, reverse, swap, permutation, listk, listsearch, merge, walkbst.
const std::vector<std::string>& ram_task_names();
// For an unknown name it throws Error (usage) that suggests the nearest one.
RamTask ram_task(std::string_view name, const RamTaskOptions& options = {});

struct RamInstance {
  Tape tape;
  RamAnswer answer;
};
// One instance. Throws Error (usage) if difficulty or M do not suit the task.
RamInstance sample(const RamTask& task, int64_t difficulty, uint32_t M, RandomSequence& random);

int64_t wrong_cells(const RamAnswer& answer, std::span<const uint32_t> tape);

}  // namespace loci
