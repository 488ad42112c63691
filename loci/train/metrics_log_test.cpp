#include "loci/train/metrics_log.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <limits>
#include <string>

#include "loci/base/durable_file.h"
#include "tests/temporary_folder.h"

namespace {
int log_syncs = 0;
}

// Stands before the system's: counts.
extern "C" int fsync(int descriptor) {
  ++log_syncs;
  return static_cast<int>(syscall(SYS_fsync, descriptor));
}

namespace loci {
namespace {

TEST(MetricsLog, ReachesTheDiskWhenToldTo) {
  const TemporaryFolder folder;
  MetricsLog log(folder / "m", 0);
  log.write({{"step", 1}});
  log_syncs = 0;
  log.sync();
  EXPECT_EQ(log_syncs, 1);
}

TEST(MetricsLog, AppendsALineForEachObject) {
  const TemporaryFolder folder;
  {
    MetricsLog log(folder / "m", 0);
    log.write({{"step", 1}, {"loss", 2.5}});
    log.write({{"step", 2}, {"loss", std::numeric_limits<double>::quiet_NaN()}, {"text", "a\nb\xff"}});
  }
  MetricsLog(folder / "m", 2).write({{"step", 3}});
  EXPECT_EQ(read_text_file(folder / "m"),
            "{\"loss\":2.5,\"step\":1}\n{\"loss\":null,\"step\":2,\"text\":\"a\\nb\xef\xbf\xbd\"}\n{\"step\":3}\n");
}

TEST(MetricsLog, ResumingDropsWhatCameAfterTheCheckpoint) {
  const TemporaryFolder folder;
  write_file_durably(folder / "m",
                     "{\"step\":1}\n{\"kind\":\"start\"}\n{\"step\":2}\n{\"kind\":\"evaluation\",\"step\":2}\n"
                     "{\"step\":3}\n{\"step\":4}\n");
  {
    const MetricsLog log(folder / "m", 2);
  }
  EXPECT_EQ(read_text_file(folder / "m"),
            "{\"step\":1}\n{\"kind\":\"start\"}\n{\"step\":2}\n{\"kind\":\"evaluation\",\"step\":2}\n");
}

TEST(MetricsLog, EveryTornEndIsRepaired) {
  const TemporaryFolder folder;
  const std::string whole = "{\"step\":1}\n", line = "{\"step\":2,\"loss\":1.5}\n";
  for (size_t size = 0; size < line.size(); ++size) {
    write_file_durably(folder / "m", whole + line.substr(0, size));
    MetricsLog(folder / "m", 2).write({{"step", 2}});
    EXPECT_EQ(read_text_file(folder / "m"), whole + "{\"step\":2}\n") << size;
  }
}

TEST(MetricsLog, LinesThatAreNoObjectsAreDropped) {
  const TemporaryFolder folder;
  write_file_durably(folder / "m", "{\"step\":1}\n" + std::string(5, '\0') + "\n[1]\n\n{\"step\":1}\n");
  {
    const MetricsLog log(folder / "m", 9);
  }
  EXPECT_EQ(read_text_file(folder / "m"), "{\"step\":1}\n{\"step\":1}\n");
}

TEST(MetricsLog, ALogThatCannotBeWrittenIsReported) {
  const TemporaryFolder folder;
  std::filesystem::create_directory(folder / "m");
  expect_error(ExitCode::input, "m: the ", [&] { MetricsLog(folder / "m", 0); });
  expect_error(ExitCode::input, "the log must be writable, got No such file", [&] { MetricsLog(folder / "no/m", 0); });
}

TEST(MetricsLog, AFullDiskIsALackOfResourcesAndLeavesNoHalfLine) {
  const TemporaryFolder folder;
  const auto disk = folder / "disk";
  std::filesystem::create_directory(disk);
  if (mount("tmpfs", disk.c_str(), "tmpfs", 0, "size=64k") != 0) GTEST_SKIP() << "mounting a tmpfs is not allowed here";
  std::string before;
  {
    MetricsLog log(disk / "m", 0);
    log.write({{"step", 1}});
    before = read_text_file(disk / "m");
    expect_error(ExitCode::resources, "m: the log must be writable, got No space left",
                 [&] { log.write({{"text", std::string(1 << 20, 'x')}}); });
  }
  EXPECT_EQ(read_text_file(disk / "m"), before);
  umount(disk.c_str());
}

}  // namespace
}  // namespace loci
