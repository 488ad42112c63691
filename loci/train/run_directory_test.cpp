#include "loci/train/run_directory.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <string>

#include "loci/base/durable_file.h"
#include "tests/temporary_folder.h"

namespace loci {
namespace {

namespace fs = std::filesystem;

constexpr const char* config = "task = \"language-model\"\n[model]\nwidth = 128\nrates = [1, 2]\n";

TEST(RunDirectory, IsMadeWithItsConfiguration) {
  const TemporaryFolder folder;
  const RunDirectory run(folder / "out/memory/seed-0", config);
  EXPECT_EQ(run.path(), folder / "out/memory/seed-0");
  EXPECT_EQ(read_text_file(run.path() / "config.toml"), config);
  EXPECT_FALSE(run.latest());
  run.metrics(0).write({{"step", 0}});
  EXPECT_EQ(read_text_file(run.path() / "metrics.jsonl"), "{\"step\":0}\n");
}

TEST(RunDirectory, IsOpenedAgainWithTheSameConfigurationHoweverItIsWritten) {
  const TemporaryFolder folder;
  {
    const RunDirectory run(folder.path(), config);
    CheckpointWriter(run.path(), 3).finish({}, 1);
  }
  fs::create_directory(folder / ".step-4.tmp-1");
  const RunDirectory run(folder.path(), "# later\nmodel = {rates = [1, 2], width = 128}\ntask = 'language-model'\n");
  EXPECT_EQ(read_text_file(folder / "config.toml"), config);
  EXPECT_EQ(run.latest()->filename(), "step-3");
  EXPECT_FALSE(fs::exists(folder / ".step-4.tmp-1"));
}

TEST(RunDirectory, OfAnotherConfigurationIsRefusedNamingTheFirstKeyThatDiffers) {
  const TemporaryFolder folder;
  {
    const RunDirectory run(folder.path(), config);
  }
  const auto open = [&folder](const std::string& text) { const RunDirectory run(folder.path(), text); };
  const std::string task = "task = \"language-model\"\n";
  expect_error(ExitCode::usage, "config.toml: the run was begun with model.width = 128 and must keep it, got 256",
               [&] { open(task + "[model]\nwidth = 256\nrates = [1, 2]\n"); });
  expect_error(ExitCode::usage, "begun with model.rates = [ 1, 2 ] and must keep it, got [ 1, 3 ]",
               [&] { open(task + "[model]\nwidth = 256\nrates = [1, 3]\n"); });
  expect_error(ExitCode::usage, "begun with model.rates = [ 1, 2 ] and must keep it, got unset",
               [&] { open(task + "[model]\nwidth = 128\n"); });
  expect_error(ExitCode::usage, "begun with model.memory.rows = unset and must keep it, got 4",
               [&] { open(task + "[model]\nwidth = 128\nrates = [1, 2]\nmemory.rows = 4\n"); });
  expect_error(ExitCode::usage, "begun with model.width = 128 and must keep it, got 128.0",
               [&] { open(task + "[model]\nwidth = 128.0\nrates = [1, 2]\n"); });
  EXPECT_EQ(read_text_file(folder / "config.toml"), config);
}

TEST(RunDirectory, WhatIsNoRunIsRefusedAndLeftAlone) {
  const TemporaryFolder folder;
  write_file_durably(folder / "thesis.tex", "mine");
  expect_error(ExitCode::usage, "must be empty or hold a run (config.toml), got thesis.tex",
               [&] { RunDirectory(folder.path(), config); });
  expect_error(ExitCode::usage, "the folder must exist or be creatable",
               [&] { RunDirectory(folder / "thesis.tex", config); });
  expect_error(ExitCode::usage, "the folder must exist or be creatable",
               [&] { RunDirectory(folder / "thesis.tex/run", config); });
  write_file_durably(folder / "config.toml", "width = ");
  expect_error(ExitCode::input, "config.toml", [&] { RunDirectory(folder.path(), config); });
  EXPECT_EQ(read_text_file(folder / "config.toml"), "width = ");
}

TEST(RunDirectory, ASecondProcessIsRefusedUntilTheFirstEnds) {
  const TemporaryFolder folder;
  {
    const RunDirectory run(folder.path(), config);
    expect_error(ExitCode::usage, "the run directory must be free, got another process",
                 [&] { RunDirectory(folder.path(), config); });
  }
  EXPECT_NO_THROW(RunDirectory(folder.path(), config));
}

TEST(RunDirectory, AKilledProcessHoldsNoLock) {
  const TemporaryFolder folder;
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    auto* run = new RunDirectory(folder.path(), config);
    kill(getpid(), SIGKILL);
    delete run;
  }
  waitpid(child, nullptr, 0);
  EXPECT_NO_THROW(RunDirectory(folder.path(), config));
}

}  // namespace
}  // namespace loci
