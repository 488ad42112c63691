#include "loci/program/verify.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "loci/program/assemble.h"
#include "loci/program/reference_programs.h"

namespace loci::verify_test {
namespace {

TEST(Verify, ReferenceProgramsAreExactAtEveryLength) {
  for (const std::string& name : ram_task_names()) {
    const RamTask task = ram_task(name);
    const VerifyReport report = verify(reference_program(name), task, {.instances = 100});
    EXPECT_TRUE(report.exact()) << name;
    EXPECT_EQ(report.lengths.size(), name == "swap" ? 14U : 15U);
    EXPECT_EQ(report.total().instances, static_cast<int64_t>(report.lengths.size()) * 100);
    EXPECT_EQ(report.total().wrong_cells, 0);
    EXPECT_EQ(report.total().unseen, 0);
    EXPECT_EQ(report.total().forced, name == "merge" ? report.total().instances : 0);
    EXPECT_EQ(report.total().length, 50);
  }
}

TEST(Verify, CountsErrorsAndShowsTheFirst) {
  // Copies one element and stops: exact at length 1 alone.
  const RamProgram lazy = assemble(
      3, "r2nz: stop | r0z: DEC(READ); r1=DEC; r0=ONE | else: INC(r0); ADD(r0,r1); WRITE(ADD,READ); r0=INC; r2=ONE");
  const VerifyReport report = verify(lazy, ram_task("copy"), {.lengths = {1, 4}, .instances = 50});
  ASSERT_EQ(report.lengths.size(), 2U);
  EXPECT_EQ(report.lengths[0].wrong_instances, 0);
  EXPECT_EQ(report.lengths[1].wrong_instances, 50);
  EXPECT_EQ(report.lengths[1].cells, 200);
  EXPECT_EQ(report.lengths[1].wrong_cells, 150);
  EXPECT_EQ(report.lengths[1].steps, (std::map<uint32_t, int64_t>{{3, 50}}));
  ASSERT_TRUE(report.counter_example);
  EXPECT_EQ(report.counter_example->length, 4);
  EXPECT_EQ(report.counter_example->tape[5], 0U) << "the tape before the run";
  EXPECT_EQ(report.counter_example->result[5], report.counter_example->tape[1]);
  EXPECT_EQ(report.counter_example->run, (RamRunResult{3, StopReason::stopped}));

  const nlohmann::json json = to_json(report);
  EXPECT_EQ(json["exact"], false);
  EXPECT_EQ(json["lengths"][1]["instance_error"], 1.0);
  EXPECT_EQ(json["lengths"][1]["cell_error"], 0.75);
  EXPECT_EQ(json["lengths"][1]["instance_error_interval"][1], 1.0);
  EXPECT_EQ(json["lengths"][1]["steps"]["3"], 50);
  EXPECT_EQ(json["counter_example"]["end"], "stopped");
  EXPECT_EQ(json["total"]["instances"], 100);
}

TEST(Verify, ForcedAndUnseenRunsAreCounted) {
  const InstanceOptions few{.lengths = {3}, .instances = 10};
  EXPECT_EQ(verify(assemble(1, "else: r0=r0"), ram_task("copy"), few).lengths[0].forced, 10);
  EXPECT_EQ(verify(assemble(1, "r0z: r0=ONE"), ram_task("copy"), few).lengths[0].unseen, 10);
}

TEST(Verify, InstancesOfALengthDoNotDependOnTheOthers) {
  std::vector<Tape> alone, among;
  std::vector<uint32_t> sizes;
  for_each_instance(ram_task("listk"), {.lengths = {7}, .instances = 4}, [&](int64_t, RamInstance& instance) {
    alone.push_back(instance.tape);
    sizes.push_back(static_cast<uint32_t>(instance.tape.size()));
  });
  for_each_instance(ram_task("listk"), {.lengths = {3, 7}, .instances = 4}, [&](int64_t length, RamInstance& instance) {
    if (length == 7) among.push_back(instance.tape);
  });
  EXPECT_EQ(alone, among);
  EXPECT_EQ(sizes, (std::vector<uint32_t>{19, 27, 19, 27}));
}

}  // namespace
}  // namespace loci::verify_test
