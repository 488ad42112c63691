// The Wilson score interval of a rate, from `hits` of `trials`: sensible for few trials and for rates of 0 and 1.
#pragma once

#include <cmath>
#include <cstdint>

namespace loci {

struct Interval {
  double low = 0;
  double high = 1;
};

inline Interval wilson_interval(int64_t hits, int64_t trials, double z = 1.959963984540054) {
  if (trials == 0) return {};
  const auto n = static_cast<double>(trials);
  const double p = static_cast<double>(hits) / n;
  const double centre = p + z * z / (2 * n);
  const double reach = z * std::sqrt(p * (1 - p) / n + z * z / (4 * n * n));
  const double scale = 1 + z * z / n;
  return {.low = hits == 0 ? 0 : (centre - reach) / scale, .high = hits == trials ? 1 : (centre + reach) / scale};
}

}  // namespace loci
