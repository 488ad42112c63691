#include "loci/program/reference_programs.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>

#include "loci/data/ram/ram_tasks.h"

namespace loci::reference_programs_test {
namespace {

class ReferencePrograms : public testing::TestWithParam<std::string> {};

TEST_P(ReferencePrograms, SolveRandomInstancesToLength50InTheReferenceSteps) {
  const RamProgram program = reference_program(GetParam());
  for (const bool pointer : {false, true}) {
    const RamTask task = ram_task(GetParam(), {.out_pointer = pointer});
    RandomSequence random(CounterRandom(17, GetParam()));
    uint32_t spare = UINT32_MAX;
    for (int64_t d = task.minimum_difficulty; d <= 50; ++d) {
      for (int instance = 0; instance < 60; ++instance) {
        const uint32_t M = task.minimum_tape(d) + static_cast<uint32_t>(instance % 4) * 3;
        RamInstance drawn = sample(task, d, M, random);
        const auto steps = static_cast<uint32_t>(task.reference_steps(d));
        const Tape before = drawn.tape;
        const RamRunResult result = program.run(drawn.tape, steps);
        ASSERT_EQ(wrong_cells(drawn.answer, drawn.tape), 0)
            << testing::PrintToString(before) << " became " << testing::PrintToString(drawn.tape);
        const bool stops = GetParam() != "merge";
        ASSERT_EQ(result.reason, stops ? StopReason::stopped : StopReason::forced);
        spare = std::min(spare, steps - result.steps);
      }
    }
    EXPECT_EQ(spare, 0U) << "the reference steps must be the least that do";
  }
}

INSTANTIATE_TEST_SUITE_P(All, ReferencePrograms, testing::ValuesIn(ram_task_names()),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace loci::reference_programs_test
