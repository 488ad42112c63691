// The solution of z' = f(s, z) with its gradient, made in one of three ways.
//
// Legend: a dL/dz at s, theta what the field depends on.
//
//   steps        through all steps: exact for the steps that were made; keeps what every evaluation keeps
//   checkpoints  the same gradient; keeps each `checkpoint_steps`-th state and makes the steps between anew
//   adjoint      keeps z(to) alone and solves, backward in s,
//                  z' = f,  a' = -a df/dz,  g' = -a df/dtheta;  a(to) = dL/dz(to), g(to) = 0
//                (Pontryagin; Chen et al. 2018, "Neural ordinary differential equations"). That is the gradient of the
//                solution, not of the steps: the two differ by the solver's error. z and a decide on steps, g does not.
//
// An integral loss is a part of the state: q' = l(s, z), q(from) = 0.
//
// checkpoints and adjoint evaluate the field again in backward: it must be a function of s, z and theta (no dropout, no
// batch norm in training). Autocast is off within the solution.
#pragma once

#include <memory>

#include "loci/nn/small/ode_solver.h"

namespace loci {

enum class OdeGradient { steps, adjoint, checkpoints };

struct OdeGradientOptions {
  OdeGradient kind = OdeGradient::steps;
  int64_t checkpoint_steps = 1;  // checkpoints
  void fields(ConfigFields& f);
};

struct OdeCounts {
  OdeCount forward, backward;
};

// theta: the leaves (parameters) that the field depends on, in addition to s and z, whose gradients are wanted; `steps`
// needs none. Throws where they were changed between forward and backward. What is done is added to `counts`, by
// backward too.
OdeState ode_solve(const OdeField& field, const OdeState& z, double from, double to, const OdeOptions& options,
                   const OdeGradientOptions& gradient, const std::vector<at::Tensor>& theta,
                   const std::shared_ptr<OdeCounts>& counts = nullptr);

// A field that depends on tensors with a history of their own, too, such as the input of a layer: they are given to
// each evaluation, and their gradients are those of the solution alone.
using OdeFieldOf = std::function<OdeState(double s, const OdeState& z, const std::vector<at::Tensor>& inputs)>;
OdeState ode_solve(const OdeFieldOf& field, const std::vector<at::Tensor>& inputs, const OdeState& z, double from,
                   double to, const OdeOptions& options, const OdeGradientOptions& gradient,
                   const std::vector<at::Tensor>& theta, const std::shared_ptr<OdeCounts>& counts = nullptr);

}  // namespace loci
