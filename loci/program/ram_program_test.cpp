#include "loci/program/ram_program.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "loci/program/assemble.h"
#include "loci/program/reference_programs.h"

namespace loci::ram_program_test {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

std::string message(const std::function<void()>& act, ExitCode code) {
  try {
    act();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), code);
    EXPECT_EQ(std::string(error.what()).find('\n'), std::string::npos);
    return error.what();
  }
  return "no error";
}

uint32_t apply(std::string_view name, uint32_t a, uint32_t b, uint32_t M) {
  const auto& all = standard_modules();
  return std::find_if(all.begin(), all.end(), [&](const RamModule& m) { return m.name == name; })->evaluate(a, b, M);
}

TEST(Modules, AreTheFunctionsOfThePaperForEverySize) {
  for (const uint32_t M : {3U, 4U, 8U, 13U, 0x80000000U, 0xFFFFFFFFU}) {
    std::vector<uint32_t> values = {0, 1, 2, M / 2, M - 2, M - 1};
    for (const uint64_t a : values) {
      const auto x = static_cast<uint32_t>(a);
      EXPECT_EQ(apply("INC", x, 0, M), (a + 1) % M);
      EXPECT_EQ(apply("DEC", x, 0, M), (a + M - 1) % M);
      for (const uint64_t b : values) {
        const auto y = static_cast<uint32_t>(b);
        EXPECT_EQ(apply("ADD", x, y, M), (a + b) % M);
        EXPECT_EQ(apply("SUB", x, y, M), (a + M - b) % M);
        EXPECT_EQ(apply("LT", x, y, M), a < b ? 1U : 0U);
        EXPECT_EQ(apply("LE", x, y, M), a <= b ? 1U : 0U);
        EXPECT_EQ(apply("EQ", x, y, M), a == b ? 1U : 0U);
        EXPECT_EQ(apply("MIN", x, y, M), std::min(a, b));
        EXPECT_EQ(apply("MAX", x, y, M), std::max(a, b));
      }
    }
  }
  EXPECT_EQ(standard_modules().size(), 14U);
}

TEST(RamProgram, RegistersChangeAtOnceFromOldValues) {
  // r0 = 1, r1 = 2, then both are exchanged and written down.
  const RamProgram program = assemble(3, "r0z: r0=ONE; r1=TWO | r2z: r0=r1; r1=r0; r2=ONE | else: WRITE(r0,r1); stop");
  Tape tape = {0, 0, 0, 0};
  EXPECT_EQ(program.run(tape, 10), (RamRunResult{3, StopReason::stopped}));
  EXPECT_THAT(tape, ElementsAre(0, 0, 1, 0));
}

TEST(RamProgram, SecondReadSeesWhatTheFirstWriteWrote) {
  const CircuitShape shape{.registers = 1, .repeats = 2};
  Circuit circuit = idle_circuit(shape);
  const uint16_t one = 1 + 2, second_read = 1 + 14;
  circuit.modules[13] = {.kept = true, .a = one, .b = one};        // mem[1] = 1
  circuit.modules[14] = {.kept = true, .a = one, .b = 0};          // mem[1] again
  circuit.modules[27] = {.kept = true, .a = 0, .b = second_read};  // mem[0] = it
  circuit.stop = true;
  const RamProgram program(shape, {circuit}, {0, 0});
  Tape tape = {2, 2, 2};
  program.run(tape, 1);
  EXPECT_THAT(tape, ElementsAre(1, 1, 2));
  EXPECT_EQ(shape.source_name(1 + 14), "READ.2");
}

TEST(RamProgram, WritePutsOutWhatItWrote) {
  Circuit circuit = idle_circuit({.registers = 1});
  circuit.modules[13] = {.kept = true, .a = 1 + 1, .b = 1 + 3};  // mem[ZERO] = TWO
  circuit.sources[0] = 1 + 13;
  const RamProgram program({.registers = 1}, {circuit}, {RamProgram::kUnseen, 0});
  Tape tape = {0, 0, 0};
  EXPECT_EQ(program.run(tape, 5), (RamRunResult{1, StopReason::unseen})) << "r0 is 2 after one step";
  EXPECT_THAT(tape, ElementsAre(2, 0, 0));
}

TEST(RamProgram, SaysWhyItStopped) {
  Tape tape = {2, 5, 3, 4, 0, 0};
  const RamProgram access = reference_program("access");
  EXPECT_EQ(access.run(tape, 0), (RamRunResult{0, StopReason::forced}));
  EXPECT_EQ(access.run(tape, 1), (RamRunResult{1, StopReason::forced}));
  EXPECT_EQ(access.run(tape, 2), (RamRunResult{2, StopReason::stopped}));
  const RamProgram lost = assemble(1, "r0z: r0=ONE");
  EXPECT_EQ(lost.run(tape, 5), (RamRunResult{1, StopReason::unseen}));
  EXPECT_EQ(name_of(StopReason::forced), "forced stop");
}

TEST(RamProgram, TraceHoldsEveryStep) {
  const RamProgram copy = reference_program("copy");
  Tape tape = {2, 5, 0, 0, 0, 0};
  Trace trace;
  EXPECT_EQ(copy.run(tape, 10, &trace), (RamRunResult{3, StopReason::stopped}));
  ASSERT_EQ(trace.size(), 3U);
  EXPECT_EQ(trace[0].pattern, 7U);
  EXPECT_EQ(trace[1].pattern, 4U);
  EXPECT_EQ(trace[2].pattern, 0U);
  EXPECT_THAT(trace[1].registers, ElementsAre(1, 1, 0));
  EXPECT_THAT(trace[2].registers, ElementsAre(2, 1, 1));
  EXPECT_THAT(trace[0].tape, ElementsAre(2, 5, 0, 0, 0, 0));
  EXPECT_THAT(trace[1].tape, ElementsAre(2, 5, 5, 0, 0, 0));
  ASSERT_EQ(trace[1].modules.size(), 14U);
  EXPECT_EQ(trace[1].modules[0], (TraceStep::Module{.index = 0, .a = 1, .b = 1, .output = 5, .before = 5}));
  EXPECT_EQ(trace[1].modules[13], (TraceStep::Module{.index = 13, .a = 2, .b = 5, .output = 5, .before = 0}));
  EXPECT_TRUE(trace[2].stop && !trace[1].stop);
}

TEST(RamProgram, TraceAsText) {
  Circuit circuit = idle_circuit({.registers = 1});
  for (Circuit::Module& wires : circuit.modules) wires = {.kept = false, .a = 0, .b = 0};
  circuit.modules[0].kept = true;
  circuit.modules[3].kept = true;
  circuit.modules[5] = {.kept = true, .a = 1, .b = 4};
  circuit.modules[13] = {.kept = true, .a = 4, .b = 6};
  circuit.stop = true;
  const RamProgram program({.registers = 1}, {circuit}, {0, 0});
  Tape tape = {3, 1, 1, 1, 1, 1};
  Trace trace;
  program.run(tape, 1, &trace);
  EXPECT_EQ(to_text(program.shape(), trace),
            "step 1  r0=0\n"
            "  READ(0)=3  TWO  ADD(3,2)=5  WRITE(2,5) was 1\n"
            "  tape 3 1 [5] 1 1 1\n"
            "  stop\n");
}

TEST(RamProgram, AModuleOfOnesOwnIsAFunction) {
  std::vector<RamModule> modules = standard_modules();
  modules.insert(modules.begin() + 4,
                 {.name = "DOUBLE", .operands = 1, .evaluate = [](uint32_t a, uint32_t, uint32_t M) -> uint32_t {
                    return static_cast<uint32_t>(uint64_t{a} * 2 % M);
                  }});
  const CircuitShape shape{.registers = 1, .modules = modules};
  Circuit circuit = idle_circuit(shape);
  circuit.modules[4].a = 1;  // DOUBLE(READ)
  circuit.modules[14] = {.kept = true, .a = 0, .b = 1 + 4};
  circuit.stop = true;
  Tape tape = {4, 0, 0, 0, 0};
  RamProgram(shape, {circuit}, {0, 0}).run(tape, 1);
  EXPECT_EQ(tape[0], 3U);
}

TEST(RamProgram, BadTapesGiveOneLine) {
  const RamProgram program = reference_program("copy");
  Tape high = {4, 5, 2, 9, 0, 0, 0, 0};
  EXPECT_EQ(message([&] { program.run(high, 5); }, ExitCode::usage),
            "ram_program: value at cell 3 must be 0..7 (M=8), got 9");
  Tape small = {1, 0};
  EXPECT_EQ(message([&] { program.run(small, 5); }, ExitCode::usage),
            "ram_program: tape must have at least 3 cells, got 2");
  EXPECT_THAT(high, ElementsAre(4, 5, 2, 9, 0, 0, 0, 0)) << "nothing ran";
}

TEST(RamProgram, WhatDoesNotFitIsRefused) {
  const CircuitShape shape{.registers = 2};
  const Circuit good = idle_circuit(shape);
  const auto refused = [&](const CircuitShape& s, const Circuit& circuit, std::vector<int32_t> table) {
    return message([&] { RamProgram(s, {circuit}, table); }, ExitCode::input);
  };
  EXPECT_EQ(refused(shape, good, {0, 0, 0, 0}), "no error");
  EXPECT_THAT(refused(shape, good, {0, 0, 0}), HasSubstr("table must have 4 rows, got 3"));
  EXPECT_THAT(refused(shape, good, {0, 0, 1, 0}),
              HasSubstr("table row 2 must be -1 (unseen) or a circuit 0..0, got 1"));
  EXPECT_THAT(refused({.registers = 0}, good, {0}), HasSubstr("registers must be 1..20, got 0"));
  EXPECT_THAT(refused({.registers = 2, .repeats = 2}, good, {0, 0, 0, 0}),
              HasSubstr("modules of a circuit must be 28"));
  Circuit bad = good;
  bad.modules[5].b = 2 + 5;
  EXPECT_THAT(refused(shape, bad, {0, 0, 0, 0}), HasSubstr("operand b of module 5 (ADD) must be 0..6, got 7"));
  bad = good;
  bad.modules[1].a = 1;
  EXPECT_THAT(refused(shape, bad, {0, 0, 0, 0}), HasSubstr("operand a of module 1 (ZERO) is not used and must be 0"));
  bad = good;
  bad.sources[1] = 16;
  EXPECT_THAT(refused(shape, bad, {0, 0, 0, 0}), HasSubstr("source of register 1 must be 0..15, got 16"));
  bad = good;
  bad.modules[4].kept = false;
  bad.sources[0] = 2 + 4;
  EXPECT_THAT(refused(shape, bad, {0, 0, 0, 0}), HasSubstr("source of register 0 must not be a pruned module, got 6"));
}

TEST(Assemble, RefusesWhatItCannotRead) {
  const auto refused = [](std::string_view text) { return message([&] { assemble(2, text); }, ExitCode::usage); };
  EXPECT_THAT(refused("r0z stop"), HasSubstr("row must be \"condition: statements\", got \"r0zstop\""));
  EXPECT_THAT(refused("r2z: stop"), HasSubstr("condition must be like r0z, r1nz or else, got \"r2z\""));
  EXPECT_THAT(refused("z: stop"), HasSubstr("got \"z\""));
  EXPECT_THAT(refused("else: MUL(r0,r1)"), HasSubstr("module must be one of READ"));
  EXPECT_THAT(refused("else: INC(r0,r1)"), HasSubstr("INC must have 1 operands, got \"INC(r0,r1)\""));
  EXPECT_THAT(refused("else: halt"), HasSubstr("statement must be like"));
  EXPECT_THAT(refused("else: r7=INC"), HasSubstr("register must exist, got \"r7\""));
  EXPECT_NE(message([] { assemble(2, "else: INC(WRITE)"); }, ExitCode::input), "no error");
}

}  // namespace
}  // namespace loci::ram_program_test
