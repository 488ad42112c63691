#include "loci/program/program_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "loci/base/durable_file.h"
#include "loci/data/ram/ram_tasks.h"
#include "loci/program/prune.h"
#include "loci/program/reference_programs.h"
#include "tests/random_program.h"

namespace loci::program_file_test {
namespace {

using testing::HasSubstr;

void expect_same(const RamProgram& a, const RamProgram& b) {
  EXPECT_EQ(a.shape().registers, b.shape().registers);
  EXPECT_EQ(a.shape().repeats, b.shape().repeats);
  EXPECT_EQ(a.circuits(), b.circuits());
  EXPECT_EQ(a.table(), b.table());
}

// The message of a refusal, or "accepted".
std::string answer_to(std::string_view text) {
  try {
    program_from_json(text, "p.json");
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::input) << error.what();
    EXPECT_EQ(std::string(error.what()).find('\n'), std::string::npos) << error.what();
    return error.what();
  }
  return "accepted";
}

TEST(ProgramFile, RoundTrip) {
  for (const std::string& name : ram_task_names()) {
    const RamProgram program = reference_program(name);
    expect_same(program_from_json(to_json(program)), program);
    expect_same(program_from_json(to_json(simplify(program))), simplify(program));
  }
  RandomSequence random(CounterRandom(1, "files"));
  for (int i = 0; i < 20; ++i) {
    const RamProgram program = random_program(1 + i % 5, 1 + i % 3, random);
    const std::string text = to_json(program);
    expect_same(program_from_json(text), program);
    EXPECT_EQ(to_json(program_from_json(text)), text);
  }
}

TEST(ProgramFile, SaveAndLoad) {
  const std::filesystem::path path = std::filesystem::path(testing::TempDir()) / "loci_program_file_test.json";
  save_program(reference_program("merge"), path);
  expect_same(load_program(path), reference_program("merge"));
  std::filesystem::remove(path);
  EXPECT_THROW(load_program(path), Error);
}

TEST(ProgramFile, ReadsWhatTheFormatSays) {
  const std::string text = R"({"format": "loci-ram-program", "version": 1, "registers": 1, "repeats": 1,
    "modules": ["READ", "INC", "WRITE"],
    "circuits": [{"modules": [[0], [1], null], "registers": [2], "stop": false},
                 {"modules": [null, null, [0, 0]], "registers": [0], "stop": true}], "table": [1, 0]})";
  const RamProgram program = program_from_json(text);
  Tape tape = {2, 1, 1, 1};
  EXPECT_EQ(program.run(tape, 9), (RamRunResult{2, StopReason::stopped}));
  EXPECT_EQ(tape, (Tape{2, 1, 1, 3}));
}

TEST(ProgramFile, ModulesOfOnesOwnMustBeGiven) {
  std::vector<RamModule> modules = standard_modules();
  modules.push_back({.name = "DOUBLE", .operands = 1, .evaluate = [](uint32_t a, uint32_t, uint32_t M) -> uint32_t {
                       return static_cast<uint32_t>(uint64_t{a} * 2 % M);
                     }});
  const CircuitShape shape{.registers = 1, .modules = modules};
  const RamProgram program(shape, {idle_circuit(shape)}, {0, 0});
  expect_same(program_from_json(to_json(program), "program", modules), program);
  EXPECT_THAT(answer_to(to_json(program)), HasSubstr("module must be one of READ ZERO"));
}

TEST(ProgramFile, HostileFilesGiveOneLine) {
  const std::string good = to_json(simplify(reference_program("access")));
  const auto with = [&](std::string_view from, std::string_view to) {
    std::string text = good;
    const size_t at = text.find(from);
    EXPECT_NE(at, std::string::npos) << from;
    return answer_to(text.replace(at, from.size(), to));
  };
  EXPECT_EQ(answer_to(""), "p.json: program must be JSON, got a syntax error at byte 1");
  EXPECT_EQ(answer_to("[]"), "p.json: program must be an object, got array");
  EXPECT_EQ(answer_to("{}"), "p.json: program must have the key \"format\", got none");
  EXPECT_THAT(with("loci-ram-program", "loci-\\u0000"), HasSubstr("format must be \"loci-ram-program\", got"));
  EXPECT_THAT(with("\"version\": 1", "\"version\": 2"), HasSubstr("version must be 1, got 2"));
  EXPECT_THAT(with("\"registers\": 1", "\"registers\": 21"), HasSubstr("registers must be an integer 1..20, got 21"));
  EXPECT_THAT(with("\"registers\": 1", "\"registers\": 1.0"), HasSubstr("registers must be an integer 1..20, got 1.0"));
  EXPECT_THAT(with("\"registers\": 1", "\"registers\": 18446744073709551617"),
              HasSubstr("registers must be an integer"));
  EXPECT_THAT(with("\"registers\": 1", "\"registers\": 1e999"), HasSubstr("p.json: "));
  EXPECT_THAT(with("\"repeats\": 1", "\"repeats\": 4096"), HasSubstr("repeats must be"));
  EXPECT_THAT(with("\"repeats\": 1", "\"speed\": 1"), HasSubstr("must have the key \"repeats\", got none"));
  EXPECT_THAT(with("\"repeats\": 1", "\"repeats\": 1, \"speed\": 1"), HasSubstr("key of program must be one of"));
  EXPECT_THAT(with("\"TWO\"", "\"THREE\""), HasSubstr("module must be one of"));
  EXPECT_THAT(with("\"TWO\"", "\"ONE\""), HasSubstr("module names must be distinct, got ONE"));
  EXPECT_THAT(with("\"stop\":true", "\"stop\":1"), HasSubstr("stop must be true or false, got 1"));
  EXPECT_THAT(with("[0],null", "[0,0],null"), HasSubstr("operands of READ must be 1, got 2"));
  EXPECT_THAT(with("[0],null", "[-1],null"), HasSubstr("source must be an integer 0..14, got -1"));
  EXPECT_THAT(with("[0],null", "[1],null"), HasSubstr("operand a of module 0 (READ) must be 0..0, got 1"));
  EXPECT_THAT(with("[0],null", "null,null"), HasSubstr("must not be a pruned module"));
  EXPECT_THAT(with("[1,0]}", "[1,7]}"), HasSubstr("row of table must be an integer -1..1, got 7"));
  EXPECT_THAT(with("\"table\": [", "\"table\": [0,"), HasSubstr("table must have at most 2 entries, got 3"));
  EXPECT_THAT(with("\"table\": [", "\"table\": {\"a\":"), HasSubstr("syntax error"));
  EXPECT_THAT(answer_to(std::string(1 << 16, '[')), HasSubstr("syntax error"));
  EXPECT_THAT(answer_to("\xff\xfe\x00"), HasSubstr("syntax error"));
}

TEST(ProgramFile, EveryTruncationIsRefused) {
  const std::string good = to_json(simplify(reference_program("access")));
  const size_t end = good.find_last_of('}');
  for (size_t length = 0; length <= end; ++length) EXPECT_NE(answer_to(good.substr(0, length)), "accepted") << length;
}

TEST(ProgramFile, AnyDamageIsRefusedOrHarmless) {
  const std::string good = to_json(simplify(reference_program("copy")));
  RandomSequence random(CounterRandom(2, "damage"));
  const std::string bytes = "0123456789-[]{},:\"nulltrue.eE \x01\xff";
  for (int i = 0; i < 3000; ++i) {
    std::string text = good;
    for (uint64_t flips = 1 + random.below(3); flips > 0; --flips) {
      text[random.below(text.size())] = bytes[random.below(bytes.size())];
    }
    if (answer_to(text) != "accepted") continue;
    Tape tape = {4, 5, 2, 7, 0, 0, 0, 0};
    program_from_json(text).run(tape, 20);
  }
}

}  // namespace
}  // namespace loci::program_file_test
