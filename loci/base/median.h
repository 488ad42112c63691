// The median of numbers.
#pragma once

#include <algorithm>
#include <vector>

#include "loci/base/check.h"

namespace loci {

// The mean of the two middle values where their number is even. At least one value.
inline double median_of(std::vector<double> values) {
  if (values.empty()) fail(ExitCode::bug, "median_of", "there must be a value", "none");
  std::sort(values.begin(), values.end());
  const size_t half = values.size() / 2;
  return values.size() % 2 == 1 ? values[half] : (values[half - 1] + values[half]) / 2;
}

}  // namespace loci
