#include "loci/base/cpu_level.h"

#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>

#include "loci/base/check.h"

namespace loci {
namespace {

// cpu_level() decides once a process: each case asks in a child.
void answer(const char* asked) {
  setenv("LOCI_CPU_LEVEL", asked, 1);
  try {
    const CpuLevel level = cpu_level();
    setenv("LOCI_CPU_LEVEL", "base", 1);
    std::fprintf(stderr, "%s\n", level == cpu_level() ? std::string(name_of(level)).c_str() : "changed its mind");
    std::_Exit(0);
  } catch (const Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    std::_Exit(static_cast<int>(error.code()));
  }
}

TEST(CpuLevelTest, FollowsTheEnvironmentDownwardsAndDecidesOnce) {
  const std::string best(name_of(best_cpu_level()));
  EXPECT_EXIT(answer(""), testing::ExitedWithCode(0), best);
  EXPECT_EXIT(answer("base"), testing::ExitedWithCode(0), "^base\n");
  EXPECT_EXIT(answer(best.c_str()), testing::ExitedWithCode(0), best);
}

TEST(CpuLevelTest, RefusesUnknownWordsAndLevelsAboveTheCpu) {
  EXPECT_EXIT(answer("AVX9"), testing::ExitedWithCode(2), "must be base, avx2 or avx512, got \"AVX9\"");
  if (best_cpu_level() < CpuLevel::avx512) {
    EXPECT_EXIT(answer("avx512"), testing::ExitedWithCode(2), "this CPU's, got avx512");
  }
}

TEST(CpuLevelTest, HasBfloat16AndPopcountsOfWordsOnlyWithAvx512) {
  if (cpu_has_bfloat16() || cpu_has_vpopcntdq()) {
    EXPECT_EQ(best_cpu_level(), CpuLevel::avx512);
  }
}

}  // namespace
}  // namespace loci
