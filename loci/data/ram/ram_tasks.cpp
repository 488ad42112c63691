#include "loci/data/ram/ram_tasks.h"

#include <algorithm>
#include <numeric>

#include "loci/base/check.h"
#include "loci/base/nearest_word.h"
#include "loci/data/ram/ram_node_tasks.h"

namespace loci {
namespace {

using TapeView = std::span<const uint32_t>;

void fill_elements(Tape& tape, int64_t begin, int64_t count, uint32_t highest, RandomSequence& random) {
  for (int64_t i = begin; i < begin + count; ++i) {
    tape[static_cast<size_t>(i)] = static_cast<uint32_t>(random.between(1, highest));
  }
}

// The number of elements from `begin` up to the NULL that must follow them.
uint32_t count_elements(std::string_view who, TapeView tape, size_t begin) {
  const auto end = std::find(tape.begin() + static_cast<std::ptrdiff_t>(begin), tape.end(), 0U);
  require_tape(who, end != tape.end(), "array must end with NULL (0)", "none");
  return static_cast<uint32_t>(end - tape.begin() - static_cast<std::ptrdiff_t>(begin));
}

void require_no_null(std::string_view who, TapeView tape, size_t begin, size_t count) {
  for (size_t i = begin; i < begin + count; ++i) {
    require_tape(who, tape[i] != 0, fmt::format("array element at cell {} must not be NULL", i), tape[i]);
  }
}

Tape generate_access(uint32_t base, int64_t n, uint32_t M, RandomSequence& random) {
  Tape tape(M, 0);
  tape[0] = static_cast<uint32_t>(random.below(static_cast<uint64_t>(n))) + base;
  fill_elements(tape, 1, n, M - 1, random);
  return tape;
}

RamAnswer solve_access(uint32_t base, TapeView tape) {
  check_tape("access", tape);
  const uint32_t n = count_elements("access", tape, 1);
  require_tape("access", tape[0] >= base && tape[0] < n + base,
               n == 0 ? "array must have at least 1 element" : fmt::format("k must be {}..{}", base, n - 1 + base),
               tape[0]);
  return {.cells = {0}, .values = {tape[tape[0] + 1 - base]}, .weights = {}};
}

Tape generate_increment(int64_t n, uint32_t M, RandomSequence& random) {
  Tape tape(M, 0);
  fill_elements(tape, 0, n, M - 2, random);
  return tape;
}

RamAnswer solve_increment(TapeView tape) {
  check_tape("increment", tape);
  RamAnswer answer;
  for (uint32_t i = 0, n = count_elements("increment", tape, 0); i < n; ++i) {
    require_tape("increment", tape[i] + 1 < tape.size(),
                 fmt::format("element at cell {} must be 1..{} (M={})", i, tape.size() - 2, tape.size()), tape[i]);
    answer.cells.push_back(i);
    answer.values.push_back(tape[i] + 1);
  }
  return answer;
}

Tape generate_copy(int64_t n, uint32_t M, RandomSequence& random) {
  Tape tape(M, 0);
  tape[0] = static_cast<uint32_t>(n + 1);
  fill_elements(tape, 1, n, M - 1, random);
  return tape;
}

// Copy and reverse: the array is in cells 1 .. p-1, its image begins at cell p = tape[0].
RamAnswer solve_copy(std::string_view who, bool reversed, TapeView tape) {
  check_tape(who, tape);
  const uint32_t p = tape[0];
  require_tape(who, p >= 2, "p (cell 0) must be n + 1, at least 2", p);
  const uint32_t n = p - 1;
  require_tape(who, uint64_t{p} + n <= tape.size(),
               fmt::format("tape must have at least {} cells for {} elements", uint64_t{p} + n, n), tape.size());
  require_no_null(who, tape, 1, n);
  RamAnswer answer;
  for (uint32_t i = 0; i < n; ++i) {
    answer.cells.push_back(p + i);
    answer.values.push_back(reversed ? tape[n - i] : tape[1 + i]);
  }
  return answer;
}

Tape generate_swap(int64_t n, uint32_t M, RandomSequence& random) {
  Tape tape(M, 0);
  const auto length = static_cast<uint64_t>(n);
  const uint64_t first = random.below(length);
  uint64_t second = random.below(length - 1);
  second += second >= first;
  tape[0] = static_cast<uint32_t>(2 + std::min(first, second));
  tape[1] = static_cast<uint32_t>(2 + std::max(first, second));
  fill_elements(tape, 2, n, M - 1, random);
  return tape;
}

// The two cells that change weigh as much as all others together: training would else settle for changing nothing.
RamAnswer solve_swap(TapeView tape) {
  check_tape("swap", tape);
  const uint32_t n = count_elements("swap", tape, 2);
  const uint32_t p = tape[0];
  const uint32_t q = tape[1];
  require_tape("swap", n >= 2, "array must have at least 2 elements", n);
  require_tape("swap", 2 <= p && p < q && q < n + 2, fmt::format("p < q must be cells 2..{}", n + 1),
               fmt::format("p={} q={}", p, q));
  RamAnswer answer;
  for (uint32_t cell = 2; cell < n + 2; ++cell) {
    answer.cells.push_back(cell);
    answer.values.push_back(cell == p ? tape[q] : cell == q ? tape[p] : tape[cell]);
    answer.weights.push_back(cell == p || cell == q ? 1.0 : 2.0 / (n - 2));
  }
  return answer;
}

Tape generate_permutation(int64_t n, uint32_t M, RandomSequence& random) {
  Tape tape(M, 0);
  std::vector<uint32_t> permutation(static_cast<size_t>(n));
  std::iota(permutation.begin(), permutation.end(), 0U);
  random.shuffle(permutation);
  tape[0] = static_cast<uint32_t>(n + 1);
  std::copy(permutation.begin(), permutation.end(), tape.begin() + 1);
  fill_elements(tape, n + 1, n, M - 1, random);
  return tape;
}

RamAnswer solve_permutation(TapeView tape) {
  check_tape("permutation", tape);
  const uint32_t a = tape[0];
  require_tape("permutation", a >= 2, "a (cell 0) must be n + 1, at least 2", a);
  const uint32_t n = a - 1;
  require_tape("permutation", uint64_t{a} + n <= tape.size(),
               fmt::format("tape must have at least {} cells for {} elements", uint64_t{a} + n, n), tape.size());
  std::vector<bool> seen(n, false);
  RamAnswer answer;
  for (uint32_t i = 0; i < n; ++i) {
    const uint32_t from = tape[1 + i];
    require_tape("permutation", from < n && !seen[from],
                 fmt::format("cells 1..{} must hold each of 0..{} once", n, n - 1),
                 fmt::format("{} at cell {}", from, 1 + i));
    seen[from] = true;
    answer.cells.push_back(1 + i);
    answer.values.push_back(tape[a + from]);
  }
  require_no_null("permutation", tape, a, n);
  return answer;
}

Tape generate_merge(int64_t n, uint32_t M, RandomSequence& random) {
  Tape tape(M, 0);
  const auto first = static_cast<int64_t>(random.below(static_cast<uint64_t>(n) + 1));
  const uint32_t guardian = M - 1;
  fill_elements(tape, 3, first, M - 2, random);
  tape[static_cast<size_t>(3 + first)] = guardian;
  fill_elements(tape, 4 + first, n - first, M - 2, random);
  tape[static_cast<size_t>(4 + n)] = guardian;
  std::sort(tape.begin() + 3, tape.begin() + 3 + first);
  std::sort(tape.begin() + 4 + first, tape.begin() + 4 + n);
  tape[0] = 3;
  tape[1] = static_cast<uint32_t>(4 + first);
  tape[2] = static_cast<uint32_t>(n + 5);
  return tape;
}

// A sorted array from `begin` to its guardian in cell `end`.
void require_sorted(TapeView tape, size_t begin, size_t end) {
  require_no_null("merge", tape, begin, end - begin);
  require_tape("merge", tape[end] == tape.size() - 1,
               fmt::format("array must end with its guardian {} at cell {}", tape.size() - 1, end), tape[end]);
  for (size_t i = begin; i < end; ++i) {
    require_tape("merge", tape[i] < tape.size() - 1, fmt::format("element at cell {} must be below the guardian", i),
                 tape[i]);
    require_tape("merge", i == begin || tape[i - 1] <= tape[i],
                 fmt::format("array must be sorted: cell {} at least {}", i, tape[i - 1]), tape[i]);
  }
}

RamAnswer solve_merge(TapeView tape) {
  check_tape("merge", tape);
  const uint32_t b = tape[1];
  const uint32_t o = tape[2];
  require_tape("merge", tape[0] == 3, "a (cell 0) must be 3", tape[0]);
  require_tape("merge", o >= 6, "o (cell 2) must be n + 5, at least 6", o);
  require_tape("merge", b >= 4 && b < o, fmt::format("b (cell 1) must be 4..{}", o - 1), b);
  require_tape("merge", uint64_t{o} + (o - 5) <= tape.size(),
               fmt::format("tape must have at least {} cells for {} elements", uint64_t{o} + (o - 5), o - 5),
               tape.size());
  require_sorted(tape, 3, b - 1);
  require_sorted(tape, b, o - 1);
  RamAnswer answer;
  answer.values.resize(o - 5);
  answer.cells.resize(o - 5);
  std::iota(answer.cells.begin(), answer.cells.end(), o);
  std::merge(tape.begin() + 3, tape.begin() + b - 1, tape.begin() + b, tape.begin() + o - 1, answer.values.begin());
  return answer;
}

RamTask copy_task(bool reversed) {
  const std::string name = reversed ? "reverse" : "copy";
  return {.name = name,
          .layout = fmt::format("p, A; p = n + 1  ->  cells p .. p+n-1 := A{}", reversed ? " reversed" : ""),
          .tape_size = {2, 1},
          .reference_steps = {1, 2},
          .training_steps = {1, 3},
          .registers = 3,
          .generate = generate_copy,
          .solve = [name, reversed](TapeView tape) { return solve_copy(name, reversed, tape); }};
}

std::vector<RamTask> ram_tasks(const RamTaskOptions& options) {
  const auto base = static_cast<uint32_t>(options.index_base);
  return {
      {.name = "access",
       .layout = fmt::format("k, A, NULL; {0} <= k < n{1}  ->  cell 0 := element k", base, base == 0 ? "" : " + 1"),
       .tape_size = {1, 2},
       .reference_steps = {0, 2},
       .training_steps = {1, 3},
       .registers = 1,
       .generate = [base](int64_t n, uint32_t M,
                          RandomSequence& random) { return generate_access(base, n, M, random); },
       .solve = [base](TapeView tape) { return solve_access(base, tape); }},
      {.name = "increment",
       .layout = "A, NULL; elements 1 .. M-2  ->  cells 0 .. n-1 := A + 1",
       .tape_size = {1, 1},
       .reference_steps = {1, 2},
       .training_steps = {1, 3},
       .registers = 2,
       .generate = generate_increment,
       .solve = solve_increment},
      copy_task(false),
      copy_task(true),
      {.name = "swap",
       .layout = "p, q, A, NULL; p < q cells of A  ->  cells 2 .. n+1 := A with cells p and q exchanged",
       .minimum_difficulty = 2,
       .tape_size = {1, 3},
       .reference_steps = {0, 5},
       .training_steps = {0, 6},
       .curriculum_cells = 2,  // doing nothing would score 2/n of the cells
       .generate = generate_swap,
       .solve = solve_swap},
      {.name = "permutation",
       .layout = "a, P, A; a = n + 1, P permutes 0 .. n-1  ->  cell 1+i := A[P[i]]",
       .tape_size = {2, 1},
       .reference_steps = {2, 2},
       .training_steps = {2, 3},
       .generate = generate_permutation,
       .solve = solve_permutation},
      listk_task(options.out_pointer),
      listsearch_task(options.out_pointer),
      {.name = "merge",
       .layout =
           "a, b, o, A, G, B, G; sorted, G = M-1, a = 3, b = 4 + len A, o = n + 5  ->  cells o .. o+n-1 := merged",
       .tape_size = {2, 5},
       .reference_steps = {1, 4},
       .training_steps = {1, 5},
       .registers = 6,
       .generate = generate_merge,
       .solve = solve_merge},
      walkbst_task(options.out_pointer),
  };
}

}  // namespace

uint32_t RamTask::minimum_tape(int64_t difficulty) const {
  return static_cast<uint32_t>(std::max<int64_t>(3, tape_size(difficulty)));
}

double RamTask::curriculum_error(int64_t wrong, int64_t cells) const {
  if (curriculum_cells > 0) cells = curriculum_cells;
  return cells == 0 ? 0 : std::min(1.0, static_cast<double>(wrong) / static_cast<double>(cells));
}

const std::vector<std::string>& ram_task_names() {
  static const std::vector<std::string> names = [] {
    std::vector<std::string> all;
    for (const RamTask& task : ram_tasks({})) all.push_back(task.name);
    return all;
  }();
  return names;
}

RamTask ram_task(std::string_view name, const RamTaskOptions& options) {
  if (options.index_base != 0 && options.index_base != 1) {
    fail(ExitCode::usage, "ram_task", "index_base must be 0 or 1", fmt::to_string(options.index_base));
  }
  for (RamTask& task : ram_tasks(options)) {
    if (task.name == name) return task;
  }
  const std::string near = nearest_word(name, ram_task_names());
  fail(ExitCode::usage, "ram_task", fmt::format("task must be one of {}", fmt::join(ram_task_names(), ", ")),
       fmt::format("\"{}\"{}", name, near.empty() ? "" : fmt::format(" (did you mean \"{}\"?)", near)));
}

RamInstance sample(const RamTask& task, int64_t difficulty, uint32_t M, RandomSequence& random) {
  if (difficulty < task.minimum_difficulty || difficulty > kMaximumDifficulty) {
    fail(ExitCode::usage, task.name,
         fmt::format("difficulty must be {}..{}", task.minimum_difficulty, kMaximumDifficulty),
         fmt::to_string(difficulty));
  }
  if (M < task.minimum_tape(difficulty)) {
    fail(ExitCode::usage, task.name,
         fmt::format("tape must have at least {} cells for {} elements", task.minimum_tape(difficulty), difficulty),
         fmt::to_string(M));
  }
  RamInstance instance;
  instance.tape = task.generate(difficulty, M, random);
  instance.answer = task.solve(instance.tape);
  return instance;
}

int64_t wrong_cells(const RamAnswer& answer, std::span<const uint32_t> tape) {
  int64_t wrong = 0;
  for (size_t i = 0; i < answer.cells.size(); ++i) wrong += tape[answer.cells[i]] != answer.values[i];
  return wrong;
}

}  // namespace loci
