#include "loci/distributed/cpu_share.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <unistd.h>

#include <functional>
#include <thread>

namespace loci::cpu_share_test {
namespace {

using testing::ElementsAre;

TEST(CpuShare, SharesAreEqualAndTogetherAll) {
  const std::vector<int> cpus = {0, 1, 2, 5, 6};
  EXPECT_THAT(cpu_share(cpus, 5, 0, 2), ElementsAre(0, 1));
  EXPECT_THAT(cpu_share(cpus, 5, 1, 2), ElementsAre(2, 5, 6));
  EXPECT_THAT(cpu_share(cpus, 5, 4, 5), ElementsAre(6));
  EXPECT_EQ(cpu_share(cpus, 5, 0, 1), cpus);
  EXPECT_EQ(cpu_share(cpus, 5, 5, 6), cpus);  // more ranks than CPUs
  EXPECT_EQ(cpu_share(cpus, 8, 0, 2), cpus);  // bound by somebody
}

// CPUs that a thread may use after `take`, which runs on it.
int cpus_after(const std::function<void()>& take) {
  int count = 0;
  std::thread([&] {
    take();
    cpu_set_t allowed;
    ASSERT_EQ(sched_getaffinity(0, sizeof allowed, &allowed), 0);
    count = CPU_COUNT(&allowed);
  }).join();
  return count;
}

TEST(CpuShare, IsTakenByTheThread) {
  const int all = cpus_after([] {});
  if (all < 2 || all != sysconf(_SC_NPROCESSORS_ONLN)) GTEST_SKIP() << "one CPU, or bound already: " << all;
  EXPECT_EQ(cpus_after([&] { take_cpu_share(0, all); }), 1);
  EXPECT_EQ(cpus_after([&] { take_cpu_share(0, all + 1); }), all);
}

}  // namespace
}  // namespace loci::cpu_share_test
