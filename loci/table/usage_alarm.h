// Whether a memory has collapsed: whether its reads fall on far fewer rows than as many even reads would
// (docs/product-key-memory.md, "The alarm for a memory that has collapsed").
#pragma once

#include <cstdint>

namespace loci {

// The share of `rows` that `reads` even reads are expected to use: 1 - exp(-reads / rows).
double expected_usage(int64_t reads, int64_t rows);

enum class UsageLevel : int64_t { well, few, collapsed };  // from good to bad

// Compares the share of rows that a check's steps used with the expectation. A low number of reads alone is no alarm,
// for it makes the expectation low as well.
struct UsageAlarm {
  static constexpr double kFew = 0.5;        // of the expectation
  static constexpr double kCollapsed = 0.1;  // of it, in two consecutive checks

  UsageLevel level = UsageLevel::well;  // of the last check
  int64_t low_checks = 0;               // consecutive checks below kCollapsed, the last included

  void check(double used, double expected);
};

}  // namespace loci
