// Legend: N samples, R registers, Q modules, M values and cells, O logits of a circuit, U modules of the user.
#include "loci/ops/ram_step/ram_step.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/log_softmax.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>

#include "loci/ops/operator.h"
#include "loci/ops/ram_step/ram_machine_kernel.h"
#include "loci/ops/ram_step/ram_step_definition.h"

namespace loci {

using at::Tensor;
using torch::autograd::variable_list;

void check_ram_step(const Tensor& logits, const Tensor& registers, const Tensor& tape, const RamStepOptions& options) {
  TORCH_CHECK(tape.dim() == 3 && tape.size(1) == tape.size(2), "ram_step: tape must be [N, M, M], got ", tape.sizes());
  const int64_t N = tape.size(0), M = tape.size(1);
  check_ram_machine("ram_step", options, M);
  TORCH_CHECK(tape.scalar_type() == at::kFloat || tape.scalar_type() == at::kDouble,
              "ram_step: tape must be float32 or float64, got ", tape.scalar_type());
  TORCH_CHECK(registers.scalar_type() == tape.scalar_type() && logits.scalar_type() == tape.scalar_type(),
              "ram_step: logits and registers must be ", tape.scalar_type(), " as tape is, got ", logits.scalar_type(),
              " and ", registers.scalar_type());
  TORCH_CHECK(registers.sizes() == at::IntArrayRef({N, options.registers, M}), "ram_step: registers must be [", N, ", ",
              options.registers, ", ", M, "], got ", registers.sizes());
  TORCH_CHECK(logits.sizes() == at::IntArrayRef({N, options.logits()}), "ram_step: logits must be [", N, ", ",
              options.logits(), "], got ", logits.sizes());
}

std::vector<Tensor> with_autograd(const std::function<std::vector<Tensor>()>& f) {
  const auto keys = c10::impl::tls_local_dispatch_key_set();
  const c10::impl::ForceDispatchKeyGuard reach(keys.included_,
                                               keys.excluded_ - c10::autograd_dispatch_keyset_with_ADInplaceOrView);
  const at::AutoGradMode record(true);
  return f();
}

namespace {

struct ClipGradient : torch::autograd::Function<ClipGradient> {
  static Tensor forward(torch::autograd::AutogradContext* context, const Tensor& x, double clip) {
    context->saved_data["clip"] = clip;
    return x.view_as(x);
  }
  static variable_list backward(torch::autograd::AutogradContext* context, const variable_list& grads) {
    const double clip = context->saved_data["clip"].toDouble();
    return {grads[0].clamp(-clip, clip), Tensor()};
  }
};

// x / sum(x), with the gradient of x itself.
Tensor renormalised(const Tensor& x, const RamStepOptions& options) {
  if (!options.renormalise) return x;
  return x + (x / x.sum(-1, true) - x).detach();
}

// P(c) = sum over a, b of A_a B_b [table(a, b) = c]: [N, M].
Tensor lift(const Tensor& a, const Tensor& b, const Tensor& table) {
  const int64_t M = a.size(1);
  const Tensor joint = (a.unsqueeze(2) * b.unsqueeze(1)).reshape({-1, M * M});  // [N, M * M]
  return at::zeros({a.size(0), M}, a.options()).index_add(1, table.reshape({-1}), joint);
}

Tensor table_of(const RamStepOptions& options, size_t i, int64_t M) {
  const int64_t operation = options.operation[i];
  if (operation >= kRamLookup) return options.lookup[operation - kRamLookup];
  return ram_module_table(standard_modules()[static_cast<size_t>(operation)], M);
}

// Comparisons are not renormalised: they give one of two values.
bool is_renormalised(int64_t operation) {
  return operation == kRamRead || operation == kRamAdd || operation == kRamSubtract || operation == kRamMinimum ||
         operation == kRamMaximum || operation >= kRamLookup;
}

}  // namespace

std::tuple<Tensor, Tensor> ram_step_definition(const Tensor& logits, const Tensor& registers, const Tensor& tape,
                                               const RamStepOptions& options) {
  check_ram_step(logits, registers, tape, options);
  const int64_t N = tape.size(0), M = tape.size(1), R = options.registers;
  int64_t offset = 0;
  Tensor values = registers;  // [N, R + i, M]
  Tensor memory = tape;
  const auto choose = [&](int64_t length) {
    const Tensor weight = at::softmax(logits.narrow(1, offset, length), 1);  // [N, R + i]
    offset += length;
    return (weight.unsqueeze(2) * values).sum(1);  // [N, M]
  };
  const Tensor sure = at::zeros({N, M}, tape.options()).index_fill(1, at::tensor({int64_t{0}}), 1);  // of no operand
  for (size_t i = 0; i < options.operation.size(); ++i) {
    const int64_t length = R + static_cast<int64_t>(i), operation = options.operation[i];
    const Tensor a = options.operands[i] > 0 ? choose(length) : sure;
    const Tensor b = options.operands[i] > 1 ? choose(length) : sure;
    Tensor out;
    if (operation == kRamRead) {
      out = (a.unsqueeze(2) * memory).sum(1);
    } else if (operation == kRamWrite) {
      memory = (1 - a).unsqueeze(2) * memory + a.unsqueeze(2) * b.unsqueeze(1);
      out = b;
    } else {
      out = lift(a, b, table_of(options, i, M).to(tape.device()));
    }
    if (is_renormalised(operation)) out = renormalised(out, options);
    values = at::cat({values, ClipGradient::apply(out, options.clip).unsqueeze(1)}, 1);
  }
  std::vector<Tensor> next;
  for (int64_t r = 0; r < R; ++r) next.push_back(renormalised(choose(values.size(1)), options));
  return {ClipGradient::apply(at::stack(next, 1), options.clip), ClipGradient::apply(memory, options.clip)};
}

Tensor ram_entropy_definition(const Tensor& logits, const RamStepOptions& options) {
  Tensor sum = at::zeros({logits.size(0)}, logits.options());
  int64_t offset = 0;
  const auto add = [&](int64_t length) {
    const Tensor log_weight = at::log_softmax(logits.narrow(1, offset, length), 1);
    sum = sum - (log_weight.exp() * log_weight).sum(1);
    offset += length;
  };
  const int64_t R = options.registers, Q = std::ssize(options.operation);
  for (int64_t i = 0; i < Q; ++i) {
    for (int64_t operand = 0; operand < options.operands[static_cast<size_t>(i)]; ++operand) add(R + i);
  }
  for (int64_t r = 0; r < R; ++r) add(R + Q);
  return sum;
}

namespace {

using StepTensors = std::tuple<Tensor, Tensor>;            // registers, tape
using StepGradients = std::tuple<Tensor, Tensor, Tensor>;  // of logits, registers, tape

RamStepOptions step_options_of(const Tensor& registers, at::IntArrayRef modules, at::IntArrayRef operands,
                               const Tensor& lookup, double clip, bool renormalise) {
  TORCH_CHECK(registers.dim() == 3, "ram_step: registers must be [N, R, M], got ", registers.sizes());
  return {registers.size(1), modules.vec(), operands.vec(), lookup, clip, renormalise};
}

StepTensors step_forward(const Tensor& logits, const Tensor& registers, const Tensor& tape, at::IntArrayRef modules,
                         at::IntArrayRef operands, const Tensor& lookup, double clip, bool renormalise) {
  return ram_step_definition(logits, registers, tape,
                             step_options_of(registers, modules, operands, lookup, clip, renormalise));
}

StepGradients step_backward(const Tensor& grad_registers, const Tensor& grad_tape, const Tensor& logits,
                            const Tensor& registers, const Tensor& tape, at::IntArrayRef modules,
                            at::IntArrayRef operands, const Tensor& lookup, double clip, bool renormalise) {
  const RamStepOptions options = step_options_of(registers, modules, operands, lookup, clip, renormalise);
  return tuple_of<3>(with_autograd([&] {
    const variable_list leaves = {logits.detach().requires_grad_(), registers.detach().requires_grad_(),
                                  tape.detach().requires_grad_()};
    const auto [new_registers, new_tape] = ram_step_definition(leaves[0], leaves[1], leaves[2], options);
    return torch::autograd::grad({new_registers, new_tape}, leaves, {grad_registers, grad_tape});
  }));
}

StepTensors call_step(const Tensor& logits, const Tensor& registers, const Tensor& tape, at::IntArrayRef modules,
                      at::IntArrayRef operands, const Tensor& lookup, double clip, bool renormalise) {
  return call_operator<"loci::ram_step", decltype(step_forward)>(logits, registers, tape, modules, operands, lookup,
                                                                 clip, renormalise);
}

std::vector<Tensor> step_gradient(const BackwardPass& pass) {
  const auto [logits, registers, tape] = call_operator<"loci::ram_step_backward", decltype(step_backward)>(
      pass.grad[0], pass.grad[1], pass.saved[0], pass.saved[1], pass.saved[2], pass.constants[0].toIntVector(),
      pass.constants[1].toIntVector(), pass.saved[3], pass.constants[2].toDouble(), pass.constants[3].toBool());
  return {logits, registers, tape};
}

StepTensors step_autograd(const Tensor& logits, const Tensor& registers, const Tensor& tape, at::IntArrayRef modules,
                          at::IntArrayRef operands, const Tensor& lookup, double clip, bool renormalise) {
  return tuple_of<2>(once_differentiable<step_gradient>("ram_step", {logits, registers, tape}, [&] {
    const auto [new_registers, new_tape] =
        call_step(logits, registers, tape, modules, operands, lookup, clip, renormalise);
    return ForwardPass{.results = {new_registers, new_tape},
                       .saved = {logits, registers, tape, lookup},
                       .constants = {modules.vec(), operands.vec(), clip, renormalise}};
  }));
}

// On Meta, for compilation and export.
StepTensors step_on_meta(const Tensor& logits, const Tensor& registers, const Tensor& tape, at::IntArrayRef modules,
                         at::IntArrayRef operands, const Tensor&, double, bool) {
  TORCH_CHECK(registers.dim() == 3 && tape.dim() == 3 && logits.dim() == 2,
              "ram_step: logits, registers and tape must be [N, O], [N, R, M] and [N, M, M], got ", logits.sizes(),
              ", ", registers.sizes(), " and ", tape.sizes());
  TORCH_CHECK(modules.size() == operands.size(), "ram_step: operands must be ", modules.size(), " as modules are, got ",
              operands.size());
  return {at::empty_like(registers), at::empty_like(tape)};
}
StepGradients step_backward_on_meta(const Tensor&, const Tensor&, const Tensor& logits, const Tensor& registers,
                                    const Tensor& tape, at::IntArrayRef, at::IntArrayRef, const Tensor&, double, bool) {
  return {at::empty_like(logits), at::empty_like(registers), at::empty_like(tape)};
}

TORCH_LIBRARY_FRAGMENT(loci, m) {
  define_operator(
      m,
      "ram_step(Tensor logits, Tensor registers, Tensor tape, int[] modules, int[] operands, Tensor lookup, float "
      "clip, bool renormalise) -> (Tensor, Tensor)",
      step_forward, step_autograd);
  define_operator(
      m,
      "ram_step_backward(Tensor grad_registers, Tensor grad_tape, Tensor logits, Tensor registers, Tensor tape, "
      "int[] modules, int[] operands, Tensor lookup, float clip, bool renormalise) -> (Tensor, Tensor, Tensor)",
      step_backward, not_differentiable());
}
TORCH_LIBRARY_IMPL(loci, Meta, m) {
  m.impl("ram_step", step_on_meta);
  m.impl("ram_step_backward", step_backward_on_meta);
}

}  // namespace

std::tuple<Tensor, Tensor> ram_step(const Tensor& logits, const Tensor& registers, const Tensor& tape,
                                    const RamStepOptions& options) {
  return call_step(logits, registers, tape, options.operation, options.operands, options.lookup, options.clip,
                   options.renormalise);
}

}  // namespace loci
