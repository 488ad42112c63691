#include "loci/program/prune.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "loci/program/assemble.h"
#include "loci/program/reference_programs.h"
#include "tests/random_program.h"

namespace loci::prune_test {
namespace {

int kept_modules(const Circuit& circuit) {
  int kept = 0;
  for (const Circuit::Module& wires : circuit.modules) kept += wires.kept;
  return kept;
}

int seen_patterns(const RamProgram& program) {
  int seen = 0;
  for (const int32_t row : program.table()) seen += row != RamProgram::kUnseen;
  return seen;
}

TEST(Prune, ReferenceProgramsLeaveTheSameTapes) {
  for (const std::string& name : ram_task_names()) {
    const RamTask task = ram_task(name);
    const RamProgram program = reference_program(name);
    const InstanceOptions observed{.instances = 700};  // 15 lengths: more than 10,000 runs
    const RamProgram pruned = prune(program, count_patterns(program, task, observed));
    const RamProgram simple = simplify(program);
    for_each_instance(task, {.instances = 150, .seed = 2}, [&](int64_t length, RamInstance& instance) {
      const auto steps = static_cast<uint32_t>(task.training_steps(length));
      Tape expected = instance.tape, by_pruned = instance.tape, by_simple = instance.tape;
      const RamRunResult result = program.run(expected, steps);
      ASSERT_EQ(pruned.run(by_pruned, steps), result) << name;
      ASSERT_EQ(simple.run(by_simple, steps), result) << name;
      ASSERT_EQ(by_pruned, expected) << name;
      ASSERT_EQ(by_simple, expected) << name;
    });
  }
}

TEST(Prune, SimplifyIsExactForAnyProgramOnAnyTape) {
  RandomSequence random(CounterRandom(1, "simplify"));
  int dropped = 0;
  for (int i = 0; i < 400; ++i) {
    const RamProgram program = random_program(1 + i % 4, 1 + i % 3, random);
    const RamProgram simple = simplify(program);
    for (const Circuit& circuit : simple.circuits()) dropped += program.shape().size() - kept_modules(circuit);
    for (int run = 0; run < 12; ++run) {
      Tape expected = random_tape(static_cast<uint32_t>(random.between(3, 9)), random);
      Tape tape = expected;
      const RamRunResult result = program.run(expected, 12);
      ASSERT_EQ(simple.run(tape, 12), result);
      ASSERT_EQ(tape, expected);
    }
  }
  EXPECT_GT(dropped, 1000);
}

TEST(Prune, KeepsWhatTheCircuitNeedsAndNoMore) {
  const RamProgram program = simplify(reference_program("copy"));
  ASSERT_EQ(program.circuits().size(), 3U);
  EXPECT_EQ(kept_modules(program.circuits()[0]), 0) << "stop";
  EXPECT_EQ(kept_modules(program.circuits()[1]), 3) << "READ, DEC, ONE";
  EXPECT_EQ(kept_modules(program.circuits()[2]), 5) << "READ, INC, ADD, EQ, WRITE";
}

TEST(Prune, DropsUnseenRowsAndTheBitsThatOnlyTheyNeeded) {
  const RamProgram program = reference_program("copy");
  const PatternCounts counts = count_patterns(program, ram_task("copy"), {.instances = 20});
  EXPECT_EQ(counts.runs, 300U);
  EXPECT_THAT(counts.seen, testing::ElementsAre(300, 0, 0, 0, testing::Gt(300U), 0, 0, 300));
  EXPECT_THAT(counts.last, testing::ElementsAre(300, 0, 0, 0, 0, 0, 0, 0));
  EXPECT_EQ(counts.followed.at({7, 4}), 300U);
  EXPECT_EQ(counts.followed.at({4, 0}), 300U);
  EXPECT_EQ(seen_patterns(prune(program, counts)), 3);
}

TEST(Prune, ARegisterThatNobodyNeedsStaysZero) {
  // r1 is set and chooses nothing; r2 is only copied from r1.
  const RamProgram program =
      assemble(3, "r0z: INC(READ); r0=INC; r1=READ; r2=r1 | else: WRITE(ZERO,READ); r2=r1; stop");
  const RamProgram simple = simplify(program);
  for (const Circuit& circuit : simple.circuits()) {
    EXPECT_EQ(circuit.sources[1], 1);
    EXPECT_EQ(circuit.sources[2], 2);
  }
  EXPECT_EQ(kept_modules(simple.circuits()[0]), 2);
}

TEST(Prune, ARegisterThatTellsOnlySeenFromUnseenIsDropped) {
  // r1 becomes non-zero together with r0 and is used by no module.
  const RamProgram program = assemble(2, "r0z,r1z: INC(READ); r0=INC; r1=ONE | r0nz,r1nz: WRITE(ZERO,READ); stop");
  EXPECT_NE(simplify(program).circuits()[0].sources[1], 1) << "exact: the unseen patterns stay apart";
  const PatternCounts counts = count_patterns(program, ram_task("access"), {.instances = 10});
  const RamProgram pruned = prune(program, counts);
  EXPECT_EQ(pruned.circuits()[0].sources[1], 1);
  EXPECT_EQ(pruned.circuits().size(), 2U);
  EXPECT_EQ(seen_patterns(pruned), 4);
}

TEST(Prune, EqualRowsAreMerged) {
  const RamProgram program = assemble(
      2, "r0z,r1z: r0=ONE; r1=TWO; ADD(r0,r1) | r0z: WRITE(ZERO,ONE); stop; r0=TWO | else: WRITE(ZERO,ONE); stop");
  EXPECT_EQ(simplify(program).circuits().size(), 2U);
}

TEST(Prune, StoringBackIsDroppedOnlyWhenNothingWasWrittenBetween) {
  const CircuitShape shape{.registers = 1, .repeats = 2};
  Circuit circuit = idle_circuit(shape);  // both WRITEs store back at r0 what the second READ read
  circuit.stop = true;
  EXPECT_EQ(kept_modules(simplify(RamProgram(shape, {circuit}, {0, 0})).circuits()[0]), 0);
  // The first READ's value is stored back after WRITE 13 changed the cell: that is a change.
  circuit.modules[13] = {.kept = true, .a = 0, .b = 1 + 3};
  circuit.modules[27] = {.kept = true, .a = 0, .b = 1 + 0};
  const RamProgram program(shape, {circuit}, {0, 0});
  Tape tape = {0, 0, 0};
  simplify(program).run(tape, 1);
  EXPECT_EQ(tape[0], 0U);
  EXPECT_EQ(kept_modules(simplify(program).circuits()[0]), 4);
}

TEST(Prune, CountsOfAnotherProgramAreRefused) {
  const PatternCounts counts = count_patterns(reference_program("access"), ram_task("access"), {.instances = 1});
  EXPECT_THROW(prune(reference_program("copy"), counts), Error);
}

}  // namespace
}  // namespace loci::prune_test
