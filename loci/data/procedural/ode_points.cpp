#include "loci/data/procedural/ode_points.h"

#include <cmath>
#include <numbers>

namespace loci {
namespace {

constexpr double kDisc = 0.5, kRingInner = 1, kRingOuter = 1.5;

// A radius of points that are uniform between two circles.
double radius_between(double inner, double outer, double uniform) {
  return std::sqrt(inner * inner + uniform * (outer * outer - inner * inner));
}

}  // namespace

void OdePoints::fill(int64_t first, int64_t count, float* points, int64_t* labels) const {
  for (int64_t i = 0; i < count; ++i) {
    const CounterRandom random(seed_, streams_.bits(static_cast<uint64_t>(first + i)));
    if (set_ == OdeSet::reflection) {
      points[i] = static_cast<float>(2 * random.uniform(0) - 1);
      continue;
    }
    labels[i] = static_cast<int64_t>(random.below(0, 2));
    const double radius = labels[i] == 0 ? radius_between(0, kDisc, random.uniform(1))
                                         : radius_between(kRingInner, kRingOuter, random.uniform(1));
    const double angle = 2 * std::numbers::pi * random.uniform(2);
    points[2 * i] = static_cast<float>(radius * std::cos(angle));
    points[2 * i + 1] = static_cast<float>(radius * std::sin(angle));
  }
}

}  // namespace loci
