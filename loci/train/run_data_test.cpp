#include "loci/train/run_data.h"

#include <gtest/gtest.h>

#include <atomic>
#include <string>
#include <thread>

#include "loci/base/durable_file.h"
#include "loci/train/folder_lock.h"
#include "tests/temporary_folder.h"

namespace loci {
namespace {

std::string nothing_known(const std::string&) {
  return "";
}

class RunDataOfAnOut : public testing::Test {
 protected:
  std::filesystem::path run(const std::string& name) const {
    std::filesystem::create_directories(out_ / name);
    return out_ / name;
  }
  void record(const std::string& name, const RunData& data) const {
    record_run_data(out_.path(), run(name), data, nothing_known);
  }
  TemporaryFolder out_;
};

TEST_F(RunDataOfAnOut, OtherDataAreRefusedNamingTheRunAndWhatChanged) {
  record("base/seed-0", {"settings", "a", {{"bytes", 10}, {"files", 2}}});
  record("base/seed-0", {"settings", "a", {{"bytes", 10}, {"files", 2}}});  // goes on
  record("memory/seed-1", {"settings", "a", {{"bytes", 10}, {"files", 2}}});
  expect_error(ExitCode::input, "base/seed-0 was trained on (or --out be a new folder), got bytes 13 instead of 10",
               [&] { record("deep/seed-0", {"settings", "b", {{"bytes", 13}, {"files", 2}}}); });
  EXPECT_FALSE(std::filesystem::exists(out_ / "deep/seed-0/data.json"));
  expect_error(ExitCode::input, "got the same amount of other content",
               [&] { record("base/seed-0", {"settings", "b", {{"bytes", 10}}}); });
  expect_error(ExitCode::input, "got a.txt, which changed", [&] {
    record_run_data(out_.path(), run("x/seed-0"), {"settings", "b", {}},
                    [](const std::string& before) { return before == "a" ? "a.txt, which changed" : ""; });
  });
}

TEST_F(RunDataOfAnOut, OtherSettingsMayHaveOtherData) {
  record("base/seed-0", {"settings", "a", {}});
  record("other/seed-0", {"other settings", "b", {}});
}

TEST_F(RunDataOfAnOut, ABrokenRecordIsRefused) {
  for (const std::string text : {"", "[", "{}", "{\"settings\": 1, \"key\": 2, \"facts\": 3}"}) {
    write_file_durably(run("base/seed-0") / "data.json", text);
    expect_error(ExitCode::input, "data.json: the file must name a run's data",
                 [&] { record("memory/seed-0", {"settings", "a", {}}); });
  }
}

TEST(FolderLock, AnotherWaitsUntilItIsFree) {
  const TemporaryFolder folder;
  std::atomic<bool> free = false, acquired = false;
  std::thread other;
  {
    const FolderLock lock(folder.path());
    other = std::thread([&] {
      const FolderLock mine(folder.path());
      acquired = true;
      EXPECT_TRUE(free);
    });
    // Until the other one waits: the kernel lists it behind the holder, with an arrow.
    std::string locks;
    while (!acquired && locks.find("-> FLOCK") == std::string::npos) locks = read_text_file("/proc/locks");
    free = true;
  }
  other.join();
  expect_error(ExitCode::input, "none: the folder must be readable", [&] { FolderLock(folder / "none"); });
}

}  // namespace
}  // namespace loci
