#include "loci/base/stop_signal.h"

#include <gtest/gtest.h>

#include <csignal>

namespace loci {
namespace {

TEST(StopSignalTest, RemembersTheFirstSignalWhileItLives) {
  EXPECT_EQ(StopSignal::received(), 0);
  {
    const StopSignal signals("stopping");
    EXPECT_NO_THROW(StopSignal::check("none came"));
    std::raise(SIGTERM);
    EXPECT_EQ(StopSignal::received(), SIGTERM);
    try {
      StopSignal::check("stopped at 3 of 7");
      FAIL() << "no Interrupted";
    } catch (const Interrupted& stop) {
      EXPECT_EQ(stop.signal(), SIGTERM);
      EXPECT_STREQ(stop.what(), "stopped at 3 of 7");
    }
  }
  EXPECT_EQ(StopSignal::received(), 0) << "the next phase begins anew";
  const StopSignal signals("stopping");
  EXPECT_EQ(StopSignal::received(), 0);
}

TEST(StopSignalTest, AnInnerPhaseSharesTheSignalOfTheOuterOne) {
  const StopSignal outer("stopping after this step");
  {
    const StopSignal inner("stopping");
    std::raise(SIGINT);
    EXPECT_EQ(StopSignal::received(), SIGINT);
  }
  EXPECT_EQ(StopSignal::received(), SIGINT);
  const StopSignal again("stopping");
  EXPECT_EQ(StopSignal::received(), SIGINT) << "an inner one forgets nothing";
}

TEST(StopSignalDeathTest, TheSecondSignalQuitsAtOnce) {
  EXPECT_EXIT(
      {
        const StopSignal signals("stopping after this step and saving");
        std::raise(SIGINT);
        std::raise(SIGINT);
      },
      testing::ExitedWithCode(130), "loci: stopping after this step and saving \\(once more to quit at once\\)");
}

}  // namespace
}  // namespace loci
