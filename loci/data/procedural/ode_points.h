// Points whose flows are known: what equations of the first order can and cannot do (the sets of Massaroli et al. 2020,
// "Dissecting neural ODEs", and of Dupont et al. 2019, "Augmented neural ODEs").
//
// Legend: D numbers of a point.
//
//   reflection  x uniform in [-1, 1], D = 1; target -x. Solutions of one equation never cross, so that z(S) rises with
//               x; of rising functions 0 is the nearest, with a mean square of 1/3.
//   annuli      D = 2, a fair coin: label 0 uniform in the disc of radius 0.5, label 1 uniform in the ring of radii 1
//   and
//               1.5. A flow of the plane keeps the disc inside the ring.
//
// A sample is a pure function of (seed, stream, its number).
#pragma once

#include <cstdint>
#include <string_view>

#include "loci/base/random.h"

namespace loci {

enum class OdeSet { reflection, annuli };

class OdePoints {
 public:
  OdePoints(OdeSet set, uint64_t seed, std::string_view stream) : set_(set), seed_(seed), streams_(seed, stream) {}

  static int64_t dimensions(OdeSet set) { return set == OdeSet::reflection ? 1 : 2; }
  static const char* name(OdeSet set) { return set == OdeSet::reflection ? "reflection" : "annuli"; }

  // Samples first .. first + count - 1: points [count, D]; of annuli labels [count].
  void fill(int64_t first, int64_t count, float* points, int64_t* labels) const;

 private:
  OdeSet set_;
  uint64_t seed_;
  CounterRandom streams_;  // of samples
};

}  // namespace loci
