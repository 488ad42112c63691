#include "loci/train/run_data.h"

#include <gtest/gtest.h>

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <string>
#include <thread>
#include <vector>

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

TEST(FolderLock, IsHeldUntilItIsDestroyed) {
  const TemporaryFolder folder;
  const auto free = [&folder] {
    const int descriptor = open(folder.path().c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    const bool locked = flock(descriptor, LOCK_EX | LOCK_NB) == 0;
    close(descriptor);
    return locked;
  };
  {
    const FolderLock lock(folder.path());
    EXPECT_FALSE(free());
  }
  EXPECT_TRUE(free());
  expect_error(ExitCode::input, "none: the folder must be readable", [&] { FolderLock(folder / "none"); });
}

// One that did not wait would count from a number that another is about to write.
TEST(FolderLock, AnotherWaitsUntilItIsFree) {
  const TemporaryFolder folder;
  write_file_durably(folder / "count", "0");
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&folder] {
      for (int i = 0; i < 25; ++i) {
        const FolderLock lock(folder.path());
        write_file_durably(folder / "count", std::to_string(std::stoi(read_text_file(folder / "count")) + 1));
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(read_text_file(folder / "count"), "100");
}

}  // namespace
}  // namespace loci
