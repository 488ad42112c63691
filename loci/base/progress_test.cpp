#include "loci/base/progress.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <array>
#include <csignal>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <limits>

namespace loci {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

// Runs `action` with standard error being `descriptor`.
void with_stderr(int descriptor, const std::function<void()>& action) {
  const int saved = dup(STDERR_FILENO);
  dup2(descriptor, STDERR_FILENO);
  action();
  dup2(saved, STDERR_FILENO);
  close(saved);
}

std::string piped(const std::function<void()>& action) {
  int ends[2];
  EXPECT_EQ(pipe(ends), 0);
  with_stderr(ends[1], action);
  close(ends[1]);
  std::string text(1 << 16, '\0');
  text.resize(std::max<ssize_t>(0, ::read(ends[0], text.data(), text.size())));
  close(ends[0]);
  return text;
}

// What a terminal of 20 columns receives.
std::string on_terminal(const std::function<void()>& action) {
  const int master = posix_openpt(O_RDWR | O_NOCTTY);
  EXPECT_EQ(grantpt(master) | unlockpt(master), 0);
  const int terminal = open(ptsname(master), O_RDWR | O_NOCTTY);
  winsize size = {};
  size.ws_col = 20;
  ioctl(terminal, TIOCSWINSZ, &size);
  setenv("TERM", "xterm", 1);
  with_stderr(terminal, action);
  close(terminal);
  std::string text;
  std::array<char, 1 << 12> part;  // a terminal may give what was written in parts; after the last one read() fails
  for (ssize_t count; (count = ::read(master, part.data(), part.size())) > 0;) text.append(part.data(), count);
  close(master);
  return text;
}

TEST(ProgressLine, WritesPlainLinesNowAndThenWithoutATerminal) {
  const std::string text = piped([] {
    ProgressLine line(false, 1e9);
    for (int step = 0; step < 100; ++step) line.show("step " + std::to_string(step));
    line.finish("done");
  });
  EXPECT_EQ(text, "step 0\ndone\n");
}

TEST(ProgressLine, WritesEveryLineWhenNoTimeMustPass) {
  EXPECT_EQ(piped([] {
              ProgressLine line(false, 0);
              line.show("a");
              line.show("b");
            }),
            "a\nb\n");
}

TEST(ProgressLine, RedrawsOneLineThatFitsTheTerminal) {
  const std::string text = on_terminal([] {
    ProgressLine line;
    line.show("a line of\nmore than \xC3\xA4 twenty columns");
    line.show("too soon");
    line.finish("stays");
  });
  EXPECT_EQ(text, "\ra line of\\nmore tha\x1b[K\r\x1b[Kstays\r\n");
}

TEST(ProgressLine, EscapesControlCharactersOfNames) {
  EXPECT_EQ(piped([] {
              ProgressLine line(false, 0);
              line.show("a\nb\x1b[2J");
              line.finish("c\r\xff");
            }),
            "a\\nb\\u001b[2J\nc\\r\\xff\n");
}

TEST(ProgressLine, CutsBetweenCodePoints) {
  std::string wide;
  for (int i = 0; i < 30; ++i) wide += "\xC3\xA4";
  EXPECT_EQ(on_terminal([&] { ProgressLine().show(wide); }), "\r" + wide.substr(0, 38) + "\x1b[K\r\x1b[K");
}

TEST(ProgressLine, IsSilentWhenQuiet) {
  EXPECT_EQ(piped([] {
              ProgressLine line(true, 0);
              line.show("a");
              line.finish("b");
            }),
            "");
}

TEST(ProgressLine, SurvivesAClosedStandardError) {
  const int saved = dup(STDERR_FILENO);
  close(STDERR_FILENO);
  ProgressLine line(false, 0);
  line.show("a");
  line.finish("b");
  dup2(saved, STDERR_FILENO);
  close(saved);
}

TEST(ProgressLine, SurvivesAReaderThatLeft) {
  int ends[2];
  ASSERT_EQ(pipe(ends), 0);
  close(ends[0]);
  const auto handler = std::signal(SIGPIPE, SIG_IGN);
  with_stderr(ends[1], [] {
    ProgressLine line(false, 0);
    line.show("a");
    line.show("b");
    line.finish("c");
  });
  std::signal(SIGPIPE, handler);
  close(ends[1]);
}

TEST(Format, SecondsInTwoUnits) {
  EXPECT_EQ(format_seconds(0.12), "0.1 s");
  EXPECT_EQ(format_seconds(4), "4 s");
  EXPECT_EQ(format_seconds(59.7), "1 min 0 s");
  EXPECT_EQ(format_seconds(200), "3 min 20 s");
  EXPECT_EQ(format_seconds(7500), "2 h 5 min");
  EXPECT_EQ(format_seconds(200000), "2 d 7 h");
  EXPECT_EQ(format_seconds(std::numeric_limits<double>::quiet_NaN()), "?");
  EXPECT_EQ(format_seconds(-1), "?");
  EXPECT_EQ(format_seconds(1e300), "?");
}

TEST(Format, BytesAndCountsNeverReachTheNextUnit) {
  EXPECT_EQ(format_bytes(512), "512 B");
  EXPECT_EQ(format_bytes(1023.7), "1.0 KiB");
  EXPECT_EQ(format_bytes(1536 * 1024), "1.5 MiB");
  EXPECT_EQ(format_bytes(1024. * 1024 - 1), "1.0 MiB");
  EXPECT_EQ(format_count(17), "17");
  EXPECT_EQ(format_count(16384), "16.4 k");
  EXPECT_EQ(format_count(999999), "1.0 M");
  EXPECT_EQ(format_count(1.1e6), "1.1 M");
}

TEST(Memory, PeakIsAtLeastResidentAndCountsWhatWasTouched) {
  const int64_t before = resident_bytes();
  std::string block(64 << 20, 'x');
  EXPECT_GE(resident_bytes(), before + (48 << 20));
  EXPECT_GE(peak_resident_bytes(), before + (48 << 20));
  EXPECT_EQ(block[12345], 'x');
}

class AvailableBytes : public testing::Test {
 protected:
  AvailableBytes() : root_(testing::TempDir() + "loci_available_" + std::to_string(getpid())) {
    write("proc/meminfo", "MemTotal: 9000 kB\nMemAvailable:    8000 kB\n");
  }
  ~AvailableBytes() override { std::filesystem::remove_all(root_); }
  void write(const std::string& name, const std::string& text) {
    std::filesystem::create_directories((root_ / name).parent_path());
    std::ofstream(root_ / name) << text;
  }
  std::filesystem::path root_;
};

TEST_F(AvailableBytes, IsTheMachinesWithoutALimit) {
  EXPECT_EQ(available_bytes(root_), 8000 * 1024);
  write("proc/self/cgroup", "0::/a\n");
  write("sys/fs/cgroup/a/memory.max", "max\n");
  write("sys/fs/cgroup/a/memory.current", "5\n");
  EXPECT_EQ(available_bytes(root_), 8000 * 1024);
  EXPECT_GT(available_bytes(), 0);
}

TEST_F(AvailableBytes, IsWhatTheTightestGroupAboveLeaves) {
  write("proc/self/cgroup", "0::/a/b\n");
  write("sys/fs/cgroup/a/b/memory.max", "5000000\n");
  write("sys/fs/cgroup/a/b/memory.current", "1000000\n");
  write("sys/fs/cgroup/a/memory.max", "3000000\n");
  write("sys/fs/cgroup/a/memory.current", "2500000\n");
  write("sys/fs/cgroup/a/memory.stat", "anon 7\ninactive_file 100000\n");
  EXPECT_EQ(available_bytes(root_), 600000);
}

TEST_F(AvailableBytes, KnowsVersionOneGroupsAndContainersThatShowOnlyTheRoot) {
  write("proc/self/cgroup", "9:cpu:/x\n4:memory:/docker/y\n");
  write("sys/fs/cgroup/memory/memory.limit_in_bytes", "1000000\n");
  write("sys/fs/cgroup/memory/memory.usage_in_bytes", "1200000\n");
  write("sys/fs/cgroup/memory/memory.stat", "total_inactive_file 300000\n");
  EXPECT_EQ(available_bytes(root_), 100000);
}

}  // namespace
}  // namespace loci
