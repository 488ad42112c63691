// z' = f(s, z) from `from` to `to`, forward or backward, by the methods of ode_method.h.
//
// Legend: B samples, h a step, r the error ratio of a step.
//
//   fixed methods  `steps` equal steps
//   pairs          r = the root mean square of error / (atol + rtol max(|z|, |z after the step|)), over the batch, or
//                  the largest of those over each sample; of several parts the largest
//                  r <= 1: the step is taken.  h := h clamp(0.9 r^(-1/p), 0.2, 10), p = 5
//                  the first step: Hairer, Norsett and Wanner 1993 ("Solving ordinary differential equations I"), II.4
//
// A state is a list of tensors, its parts, that are integrated together. Steps are numbers, not tensors: no gradient
// goes through the choice of a step. Errors of the pairs have the exit status `numbers`: a step that underflows (with s
// and the error ratio), too many steps, and a field that is NaN or infinite however small the step is. Fixed steps look
// at no number.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <vector>

#include "loci/base/config_fields.h"
#include "loci/nn/small/ode_method.h"

namespace loci {

// Which error ratio decides on a step.
enum class OdeControl { batch, sample };

struct OdeOptions {
  OdeMethod method = OdeMethod::rk4;
  int64_t steps = 10;                      // of a fixed method, over the whole interval
  double rtol = 1e-3;                      // of a pair
  double atol = 1e-4;                      // of a pair
  OdeControl control = OdeControl::batch;  // of a pair; sample: parts are [B, ..]
  double first_step = 0;                   // of a pair, its size; 0: chosen
  int64_t max_steps = 10000;               // of a pair, with those that are not taken
  void fields(ConfigFields& f);
  void check() const;  // throws Error (usage)
};

using OdeState = std::vector<at::Tensor>;
// Slopes of all parts, each of its part's shape; another dtype becomes the part's.
using OdeField = std::function<OdeState(double s, const OdeState& z)>;

struct OdeCount {
  int64_t evaluations = 0;  // of the field
  int64_t taken = 0;        // steps
  int64_t refused = 0;
  OdeCount& operator+=(const OdeCount& other);
};

// A step of h from the state z at s.
struct OdeStep {
  double s, h;
  OdeState z;
};

// The state at `to`. Gradients go through the steps, if grad mode is on. `watch`, if given, is called before each step
// that is taken. controlled: so many parts, the first ones, decide on steps; -1: all.
OdeState ode_integrate(const OdeField& field, const OdeState& z, double from, double to, const OdeOptions& options,
                       OdeCount& count, const std::function<void(const OdeStep&)>& watch = {}, int64_t controlled = -1);

// The state after one step of any method, without an estimate.
OdeState ode_step(const OdeField& field, const OdeStep& step, OdeMethod method, OdeCount& count);

}  // namespace loci
