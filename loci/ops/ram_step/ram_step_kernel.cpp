#include "loci/ops/ram_step/ram_step_kernel.h"

#include "loci/ops/ram_step/ram_block_kernel.h"

namespace loci::LOCI_LEVEL {
namespace {

template <class Real>
bool forward_of(const RamStepArguments<Real>& a) {
  Step<Real> step(*a.machine, a.workspace);
  step.choose(a.logits, nullptr);
  return step.forward(a.registers, a.tape, a.new_registers, a.new_tape);
}

template <class Real>
bool backward_of(const RamStepArguments<Real>& a) {
  Step<Real> step(*a.machine, a.workspace);
  step.choose(a.logits, nullptr);
  const bool good = step.forward(a.registers, a.tape, nullptr, nullptr);
  step.backward(a.tape, a.gradient_registers, a.gradient_tape, a.gradient_logits);
  step.choose_adjoint(a.logits, nullptr, a.gradient_logits);
  return good;
}

}  // namespace

bool ram_step_forward(const RamStepArguments<float>& a) {
  return forward_of(a);
}
bool ram_step_forward(const RamStepArguments<double>& a) {
  return forward_of(a);
}
bool ram_step_backward(const RamStepArguments<float>& a) {
  return backward_of(a);
}
bool ram_step_backward(const RamStepArguments<double>& a) {
  return backward_of(a);
}

}  // namespace loci::LOCI_LEVEL
