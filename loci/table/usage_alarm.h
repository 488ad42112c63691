// Whether a memory has collapsed: whether its reads fall on far fewer rows than as many even reads would
// (docs/product-key-memory.md, "Measures").
#pragma once

#include <cstdint>

namespace loci {

// The share of `rows` that `reads` even reads are expected to use: 1 - exp(-reads / rows).
double expected_usage(int64_t reads, int64_t rows);

enum class UsageLevel : int64_t { well, few, collapsed };

// The rows that were used in a check's steps, check by check. Too few reads alone are no alarm: the expectation is low
// then, too.
struct UsageAlarm {
  static constexpr double kFew = 0.5;        // of the expectation
  static constexpr double kCollapsed = 0.1;  // of it, in two checks running

  UsageLevel level = UsageLevel::well;  // of the last check
  int64_t low_checks = 0;               // below kCollapsed, running

  void check(double used, double expected);
};

}  // namespace loci
