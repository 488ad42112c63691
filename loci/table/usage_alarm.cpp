#include "loci/table/usage_alarm.h"

#include <cmath>

namespace loci {

double expected_usage(int64_t reads, int64_t rows) {
  return -std::expm1(-static_cast<double>(reads) / static_cast<double>(rows));
}

void UsageAlarm::check(double used, double expected) {
  low_checks = used < kCollapsed * expected ? low_checks + 1 : 0;
  if (low_checks >= 2) {
    level = UsageLevel::collapsed;
  } else {
    level = used < kFew * expected ? UsageLevel::few : UsageLevel::well;
  }
}

}  // namespace loci
