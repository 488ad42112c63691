#include <dlfcn.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <string>

#include "loci/base/durable_file.h"
#include "loci/program/assemble.h"
#include "loci/program/export_cpp.h"
#include "loci/program/export_dot.h"
#include "loci/program/export_text.h"
#include "loci/program/reference_programs.h"
#include "tests/random_program.h"

namespace loci::program_export_test {
namespace {

TEST(ExportText, Access) {
  EXPECT_EQ(to_text(reference_program("access")),
            "if r0==0: { t=mem[r0]; r0=t+1 }\n"
            "else: { mem[0]=mem[r0]; stop }\n");
}

TEST(ExportText, QuestionsAreNestedAndRegistersChangeTogether) {
  EXPECT_EQ(to_text(reference_program("walkbst")),
            "if r0==0:\n"
            "  if r1==0: { t=mem[r0]; r0,r1=t,2 }\n"
            "  else if r2==0: { t=mem[r3]; r2,r3=t,1 }\n"
            "  else: { t=mem[r3]; mem[t]=r2; stop }\n"
            "else if r2==0: { t=mem[r1]; r2=(r0+1)+t }\n"
            "else: { t=mem[r2]; r0,r1,r2,r3=t,r1+1,0,r0 }\n");
}

TEST(ExportText, UnseenPatternsAreMentioned) {
  EXPECT_EQ(to_text(assemble(1, "r0z: stop")),
            "always: { stop }\n"
            "# 1 of 2 patterns of zero registers were never seen: there the program gives up\n");
  EXPECT_EQ(to_text(RamProgram({.registers = 1}, {}, {-1, -1})), "# no pattern was seen\n");
}

TEST(ExportText, AReadIsNotMovedPastAWrite) {
  const CircuitShape shape{.registers = 1, .repeats = 2};
  Circuit circuit = idle_circuit(shape);
  circuit.modules[13] = {.kept = true, .a = 0, .b = 1 + 3};      // mem[r0] = 2
  circuit.modules[27] = {.kept = true, .a = 1 + 2, .b = 1 + 0};  // mem[1] = what mem[r0] was
  circuit.stop = true;
  EXPECT_EQ(to_text(RamProgram(shape, {circuit}, {0, 0})), "always: { t=mem[r0]; mem[r0]=2; mem[1]=t; stop }\n");
}

TEST(ExportDot, Access) {
  const RamProgram program = reference_program("access");
  const PatternCounts counts = count_patterns(program, ram_task("access"), {.lengths = {3}, .instances = 25});
  EXPECT_EQ(to_dot(program, counts), R"(digraph program {
  compound=true;
  node [shape=ellipse, fontname="monospace"];
  start [shape=circle];
  end [shape=doublecircle];
  subgraph cluster_0 {
    label="r0==0";
    c0 [label="row 0", shape=note];
    c0_o0 [label="READ"];
    c0_o4 [label="INC"];
    c0_next0 [label="r0 :=", shape=box];
    c0_r0 [label="r0", shape=box];
    c0_r0 -> c0_o0;
    c0_o0 -> c0_o4;
    c0_o4 -> c0_next0;
  }
  subgraph cluster_1 {
    label="r0!=0";
    c1 [label="row 1", shape=note];
    c1_o0 [label="READ"];
    c1_o1 [label="ZERO"];
    c1_o13 [label="WRITE"];
    c1_r0 [label="r0", shape=box];
    c1_r0 -> c1_o0;
    c1_o1 -> c1_o13 [label="a"];
    c1_o0 -> c1_o13 [label="b"];
  }
  c0 -> c1 [label="25", style=bold];
  c1 -> end [label="25", style=bold];
  start -> c0 [label="25", style=bold];
}
)");
}

TEST(ExportCpp, AModuleWithoutCppFormIsNamed) {
  std::vector<RamModule> modules = standard_modules();
  modules[4].cpp.clear();
  const CircuitShape shape{.registers = 1, .modules = modules};
  Circuit circuit = idle_circuit(shape);
  circuit.modules[13].b = 1 + 4;
  const RamProgram program(shape, {circuit}, {0, 0});
  try {
    to_cpp(program);
    FAIL();
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(), "export_cpp: module INC must have a C++ form, got none");
  }
  EXPECT_EQ(to_text(program), "always: { mem[r0]=r0+1 }\n");
}

// All programs in one shared library, each in a namespace of its own.
class Compiled {
 public:
  using Run = int (*)(uint32_t* mem, uint32_t M, uint32_t max_steps);

  explicit Compiled(const std::vector<RamProgram>& programs)
      : folder_(std::filesystem::path(testing::TempDir()) / "loci_export_test") {
    std::filesystem::create_directories(folder_);
    std::string all = "#include <stdint.h>\n";
    std::string list;
    for (size_t i = 0; i < programs.size(); ++i) {
      write_file_durably(folder_ / fmt::format("p{}.cpp", i), to_cpp(programs[i]));
      all += fmt::format("namespace p{0} {{\n#include \"p{0}.cpp\"\n}}\n", i);
      list += fmt::format("p{}::run, ", i);
    }
    all += fmt::format(
        "using Run = int (*)(uint32_t*, uint32_t, uint32_t);\nextern \"C\" Run programs[];\n"
        "Run programs[] = {{{}}};\n",
        list);
    write_file_durably(folder_ / "all.cpp", all);
    compile(fmt::format("-fsyntax-only {}", (folder_ / "p0.cpp").string()));  // it needs nothing else
    compile(fmt::format("-shared -fPIC -o {} {}", (folder_ / "all.so").string(), (folder_ / "all.cpp").string()));
    library_ = dlopen((folder_ / "all.so").c_str(), RTLD_NOW);
    if (library_ == nullptr) throw std::runtime_error(dlerror());
    runs_ = static_cast<Run*>(dlsym(library_, "programs"));
  }
  ~Compiled() {
    if (library_ != nullptr) dlclose(library_);
    std::filesystem::remove_all(folder_);
  }

  Run operator[](size_t i) const { return runs_[i]; }

 private:
  static void compile(const std::string& arguments) {
    const std::string command = LOCI_HOST_COMPILER " -std=c++17 -O1 -Wall -Wextra -Wpedantic -Werror " + arguments;
    if (std::system(command.c_str()) != 0) throw std::runtime_error("must compile: " + command);
  }

  std::filesystem::path folder_;
  void* library_ = nullptr;
  Run* runs_ = nullptr;
};

void expect_same_run(const RamProgram& program, Compiled::Run compiled, const Tape& tape, uint32_t max_steps) {
  Tape expected = tape, by_compiled = tape;
  const RamRunResult result = program.run(expected, max_steps);
  const int steps = compiled(by_compiled.data(), static_cast<uint32_t>(tape.size()), max_steps);
  ASSERT_EQ(steps, result.reason == StopReason::unseen ? -1 : static_cast<int>(result.steps));
  ASSERT_EQ(by_compiled, expected);
}

TEST(ExportCpp, CompiledProgramsLeaveTheSameTapes) {
  std::vector<RamProgram> programs;
  for (const std::string& name : ram_task_names()) {
    const RamProgram program = reference_program(name);
    programs.push_back(program);
    programs.push_back(prune(program, count_patterns(program, ram_task(name), {.instances = 100})));
  }
  const size_t solvers = programs.size();
  RandomSequence random(CounterRandom(4, "export"));
  for (int i = 0; i < 24; ++i) programs.push_back(random_program(1 + i % 4, 1 + i % 3, random));
  programs.push_back(RamProgram({.registers = 1}, {}, {-1, -1}));
  programs.push_back(assemble(2, "else: WRITE(ZERO,ONE); stop"));
  programs.push_back(assemble(1, "else: EQ(r0,r0); LT(ONE,ONE); MAX(EQ,LT); r0=MAX"));
  const Compiled compiled(programs);

  for (size_t i = 0; i < programs.size(); ++i) {
    for (int run = 0; run < 500; ++run) {
      const Tape tape = random_tape(static_cast<uint32_t>(random.between(3, 40)), random);
      ASSERT_NO_FATAL_FAILURE(expect_same_run(programs[i], compiled[i], tape, 30)) << "program " << i;
    }
    if (i >= solvers) continue;
    const RamTask task = ram_task(ram_task_names()[i / 2]);
    for_each_instance(task, {.instances = 350}, [&](int64_t length, RamInstance& instance) {
      const auto steps = static_cast<uint32_t>(task.training_steps(length));
      ASSERT_NO_FATAL_FAILURE(expect_same_run(programs[i], compiled[i], instance.tape, steps)) << task.name;
    });
  }
}

}  // namespace
}  // namespace loci::program_export_test
