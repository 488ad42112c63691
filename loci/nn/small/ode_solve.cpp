// Legend: a dL/dz at s, theta what the field depends on.
#include "loci/nn/small/ode_solve.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/zeros_like.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/custom_class.h>

#include <algorithm>
#include <utility>

#include "loci/base/check.h"

namespace loci {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// What forward leaves for backward.
struct OdeProblem : torch::CustomClassHolder {
  OdeFieldOf field;
  double from = 0, to = 0;
  OdeOptions options;
  OdeGradientOptions gradient;
  size_t parts = 0, theta = 0, inputs = 0;
  std::vector<OdeStep> kept;  // checkpoints: states and sizes of each group's first step
  std::vector<std::vector<std::pair<double, double>>> groups;  // s and h of the steps of a group
  std::shared_ptr<OdeCounts> counts;
};

using Problem = c10::intrusive_ptr<OdeProblem>;

OdeField with_inputs(const OdeFieldOf& field, const std::vector<Tensor>& inputs) {
  return [&field, inputs](double s, const OdeState& z) { return field(s, z, inputs); };
}

OdeState detached(const OdeState& z) {
  OdeState result;
  for (const Tensor& part : z) result.push_back(part.detach().requires_grad_());
  return result;
}

// Gradients of sum a y to z, then to theta; zeros where there is none.
variable_list pulled_back(const OdeState& y, const OdeState& a, const OdeState& z, const variable_list& theta) {
  variable_list inputs = z;
  inputs.insert(inputs.end(), theta.begin(), theta.end());
  variable_list outputs, cotangents;
  for (size_t i = 0; i < y.size(); ++i) {
    if (!y[i].requires_grad()) continue;
    outputs.push_back(y[i]);
    cotangents.push_back(a[i]);
  }
  variable_list grads(inputs.size());
  if (!outputs.empty()) {
    grads = torch::autograd::grad(outputs, inputs, cotangents, /*retain_graph=*/std::nullopt, /*create_graph=*/false,
                                  /*allow_unused=*/true);
  }
  for (size_t i = 0; i < grads.size(); ++i) {
    if (!grads[i].defined()) grads[i] = at::zeros_like(inputs[i]);
  }
  return grads;
}

// Backward in s: parts z, a, and g of theta.
variable_list adjoint(OdeProblem& problem, const OdeField& f, const variable_list& theta, const OdeState& z,
                      const OdeState& a) {
  const size_t n = problem.parts;
  OdeState state = z;
  state.insert(state.end(), a.begin(), a.end());
  for (const Tensor& part : theta) state.push_back(at::zeros_like(part));
  const OdeField field = [&](double s, const OdeState& now) {
    const auto middle = now.begin() + static_cast<int64_t>(n);
    const at::AutoGradMode grad(true);
    const OdeState at_s = detached({now.begin(), middle});
    const OdeState slope = f(s, at_s);
    OdeState result;
    for (const Tensor& part : slope) result.push_back(part.detach());
    for (const Tensor& part : pulled_back(slope, {middle, middle + static_cast<int64_t>(n)}, at_s, theta)) {
      result.push_back(part.neg());
    }
    return result;
  };
  const OdeState end = ode_integrate(field, state, problem.to, problem.from, problem.options, problem.counts->backward,
                                     {}, static_cast<int64_t>(2 * n));
  return {end.begin() + static_cast<int64_t>(n), end.end()};
}

variable_list through_checkpoints(OdeProblem& problem, const OdeField& f, const variable_list& theta,
                                  const OdeState& a) {
  const size_t n = problem.parts;
  variable_list grads = a;
  for (const Tensor& part : theta) grads.push_back(at::zeros_like(part));
  const at::AutoGradMode grad(true);
  for (size_t group = problem.groups.size(); group-- > 0;) {
    const OdeState first = detached(problem.kept[group].z);
    OdeState z = first;
    for (const auto& [s, h] : problem.groups[group]) {
      z = ode_step(f, {s, h, z}, problem.options.method, problem.counts->backward);
    }
    const variable_list of_group =
        pulled_back(z, {grads.begin(), grads.begin() + static_cast<int64_t>(n)}, first, theta);
    const at::NoGradGuard guard;
    for (size_t i = 0; i < grads.size(); ++i) grads[i] = i < n ? of_group[i] : grads[i] + of_group[i];
  }
  return grads;
}

struct SolveFunction : torch::autograd::Function<SolveFunction> {
  static variable_list forward(AutogradContext* context, at::TensorList z, at::TensorList theta, at::TensorList inputs,
                               const Problem& problem) {
    const auto watch = [&](const OdeStep& step) {
      if (problem->gradient.kind != OdeGradient::checkpoints) return;
      if (problem->groups.empty() || std::ssize(problem->groups.back()) == problem->gradient.checkpoint_steps) {
        problem->kept.push_back(step);
        problem->groups.emplace_back();
      }
      problem->groups.back().emplace_back(step.s, step.h);
    };
    OdeState end = ode_integrate(with_inputs(problem->field, inputs.vec()), z.vec(), problem->from, problem->to,
                                 problem->options, problem->counts->forward, watch);
    variable_list saved = theta.vec();
    saved.insert(saved.end(), inputs.begin(), inputs.end());
    if (problem->gradient.kind == OdeGradient::adjoint) saved.insert(saved.end(), end.begin(), end.end());
    context->save_for_backward(saved);
    context->saved_data["problem"] = c10::IValue::make_capsule(problem);
    return end;
  }

  static variable_list backward(AutogradContext* context, const variable_list& grad) {
    TORCH_CHECK(!at::GradMode::is_enabled(),
                "ode_solve: a second derivative needs the gradient through the steps, got another");
    const c10::impl::ExcludeDispatchKeyGuard exact(c10::autocast_dispatch_keyset);
    OdeProblem& problem = static_cast<OdeProblem&>(*context->saved_data.at("problem").toCapsule());
    const variable_list saved = context->get_saved_variables();
    const auto of_inputs = saved.begin() + static_cast<int64_t>(problem.theta);
    const auto of_end = of_inputs + static_cast<int64_t>(problem.inputs);
    // Without their history, which is not a part of the solution.
    variable_list inputs, wanted(saved.begin(), of_inputs);
    for (auto input = of_inputs; input != of_end; ++input) {
      inputs.push_back(input->detach().requires_grad_(input->requires_grad()));
      if (input->requires_grad()) wanted.push_back(inputs.back());
    }
    const OdeField field = with_inputs(problem.field, inputs);
    const variable_list found = problem.gradient.kind == OdeGradient::adjoint
                                    ? adjoint(problem, field, wanted, {of_end, saved.end()}, grad)
                                    : through_checkpoints(problem, field, wanted, grad);
    const auto learned = static_cast<int64_t>(problem.parts + problem.theta);
    variable_list grads(found.begin(), found.begin() + learned);
    auto next = found.begin() + learned;
    for (const Tensor& input : inputs) grads.push_back(input.requires_grad() ? *next++ : Tensor());
    grads.emplace_back();  // of the problem
    return grads;
  }
};

}  // namespace

void OdeGradientOptions::fields(ConfigFields& f) {
  f.choice<OdeGradient>(
      "kind", kind, "through the steps, by the adjoint, or the steps again from kept states",
      {{"steps", OdeGradient::steps}, {"adjoint", OdeGradient::adjoint}, {"checkpoints", OdeGradient::checkpoints}});
  f.when(kind == OdeGradient::checkpoints, "model.gradient.kind is \"checkpoints\"", [&] {
    f.field("checkpoint_steps", checkpoint_steps, "steps between two kept states", {.minimum = 1, .maximum = 1000000});
  });
}

OdeState ode_solve(const OdeFieldOf& field, const std::vector<Tensor>& inputs, const OdeState& z, double from,
                   double to, const OdeOptions& options, const OdeGradientOptions& gradient,
                   const std::vector<Tensor>& theta, const std::shared_ptr<OdeCounts>& counts) {
  const c10::impl::ExcludeDispatchKeyGuard exact(c10::autocast_dispatch_keyset);
  const std::shared_ptr<OdeCounts> made = counts ? counts : std::make_shared<OdeCounts>();
  const auto wanted = [](const Tensor& part) { return part.requires_grad(); };
  std::vector<Tensor> learned;
  std::copy_if(theta.begin(), theta.end(), std::back_inserter(learned), wanted);
  const bool alone =
      learned.empty() && std::none_of(z.begin(), z.end(), wanted) && std::none_of(inputs.begin(), inputs.end(), wanted);
  if (gradient.kind == OdeGradient::steps || !at::GradMode::is_enabled() || alone || from == to) {
    return ode_integrate(with_inputs(field, inputs), z, from, to, options, made->forward);
  }
  TORCH_CHECK(gradient.checkpoint_steps >= 1, "ode_solve: checkpoint_steps must be at least 1, got ",
              gradient.checkpoint_steps);
  for (const Tensor& part : learned) {
    TORCH_CHECK(part.is_leaf(), "ode_solve: theta must be leaves (others are inputs), got the result of ",
                part.grad_fn()->name());
  }
  auto problem = c10::make_intrusive<OdeProblem>();
  problem->field = field;
  problem->from = from, problem->to = to;
  problem->options = options;
  problem->gradient = gradient;
  problem->parts = z.size(), problem->theta = learned.size(), problem->inputs = inputs.size();
  problem->counts = made;
  return SolveFunction::apply(at::TensorList(z), at::TensorList(learned), at::TensorList(inputs), problem);
}

OdeState ode_solve(const OdeField& field, const OdeState& z, double from, double to, const OdeOptions& options,
                   const OdeGradientOptions& gradient, const std::vector<Tensor>& theta,
                   const std::shared_ptr<OdeCounts>& counts) {
  const OdeFieldOf alone = [field](double s, const OdeState& at, const std::vector<Tensor>&) { return field(s, at); };
  return ode_solve(alone, {}, z, from, to, options, gradient, theta, counts);
}

}  // namespace loci
