// Legend: N samples, R registers, Q modules, M values and cells, O logits of a circuit, U modules of the user.
#include "loci/ops/ram_step/ram_step.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/log_softmax.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <algorithm>

#include "loci/ops/gradient_only.h"
#include "loci/ops/ram_step/ram_step_definition.h"

namespace loci {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

int64_t RamStepOptions::logits() const {
  int64_t sum = registers * (registers + std::ssize(operation));
  for (size_t i = 0; i < operands.size(); ++i) sum += operands[i] * (registers + static_cast<int64_t>(i));
  return sum;
}

int64_t RamStepOptions::choices() const {
  int64_t sum = registers;
  for (const int64_t count : operands) sum += count;
  return sum;
}

RamStepOptions ram_step_options(int64_t registers, const std::vector<RamModule>& modules, int64_t repeats, int64_t M) {
  RamStepOptions options;
  options.registers = registers;
  const std::vector<RamModule>& known = standard_modules();
  std::vector<int64_t> operation;
  std::vector<Tensor> tables;
  for (const RamModule& module : modules) {
    const auto same = std::find_if(known.begin(), known.end(), [&](const RamModule& other) {
      return other.role == module.role && other.evaluate == module.evaluate && other.operands == module.operands;
    });
    if (same != known.end()) {
      operation.push_back(same - known.begin());
      continue;
    }
    Tensor table = at::zeros({M, M}, at::kInt);
    for (int64_t a = 0; a < M; ++a) {
      for (int64_t b = 0; b < M; ++b) {
        table.mutable_data_ptr<int32_t>()[a * M + b] = static_cast<int32_t>(
            module.evaluate(static_cast<uint32_t>(module.operands > 0 ? a : 0),
                            static_cast<uint32_t>(module.operands > 1 ? b : 0), static_cast<uint32_t>(M)));
      }
    }
    operation.push_back(kRamLookup + std::ssize(tables));
    tables.push_back(table);
  }
  for (int64_t k = 0; k < repeats; ++k) {
    for (size_t i = 0; i < modules.size(); ++i) {
      options.operation.push_back(operation[i]);
      options.operands.push_back(modules[i].operands);
    }
  }
  options.lookup = tables.empty() ? at::zeros({0, M, M}, at::kInt) : at::stack(tables);
  return options;
}

void check_ram_machine(const char* who, const RamStepOptions& options, int64_t M) {
  TORCH_CHECK(M >= 3, who, ": M must be at least 3, since the machine knows the number 2, got ", M);
  TORCH_CHECK(options.registers >= 1, who, ": registers must be at least 1, got ", options.registers);
  TORCH_CHECK(!options.operation.empty(), who, ": modules must be at least 1, got none");
  TORCH_CHECK(options.operands.size() == options.operation.size(), who, ": operands must be ", options.operation.size(),
              " as modules are, got ", options.operands.size());
  TORCH_CHECK(options.lookup.defined() && options.lookup.dim() == 3 && options.lookup.size(1) == M &&
                  options.lookup.size(2) == M && options.lookup.scalar_type() == at::kInt,
              who, ": lookup must be int32 [U, M, M] with M = ", M, ", got ", options.lookup.sizes());
  TORCH_CHECK(options.clip > 0, who, ": clip must be above 0, got ", options.clip);
  if (options.lookup.numel() > 0) {
    const int64_t least = options.lookup.min().item<int64_t>(), most = options.lookup.max().item<int64_t>();
    TORCH_CHECK(least >= 0 && most < M, who, ": lookup must hold 0 .. ", M - 1, ", got ", least < 0 ? least : most);
  }
  const std::vector<RamModule>& known = standard_modules();
  for (size_t i = 0; i < options.operation.size(); ++i) {
    const int64_t operation = options.operation[i], operands = options.operands[i];
    TORCH_CHECK(operation >= 0 && operation < kRamLookup + options.lookup.size(0), who, ": module ", i,
                " must be 0 .. ", kRamLookup + options.lookup.size(0) - 1, ", got ", operation);
    const int64_t wanted = operation < kRamLookup ? known[static_cast<size_t>(operation)].operands : operands;
    TORCH_CHECK(operands == wanted && operands >= 0 && operands <= 2, who, ": operands of module ", i, " must be ",
                operation < kRamLookup ? std::to_string(wanted) : "0 .. 2", ", got ", operands);
  }
}

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

RamMachineView::RamMachineView(const RamStepOptions& options, int64_t M) : lookup(options.lookup.contiguous()) {
  const int32_t* table = lookup.const_data_ptr<int32_t>();
  for (size_t i = 0; i < options.operation.size(); ++i) {
    const int64_t operation = options.operation[i];
    const bool own = operation >= kRamLookup;
    modules.push_back({own ? int32_t{kRamLookup} : static_cast<int32_t>(operation),
                       static_cast<int32_t>(options.operands[i]),
                       own ? table + (operation - kRamLookup) * M * M : nullptr});
  }
  machine = {options.registers, std::ssize(modules), M, modules.data(), options.clip, options.renormalise};
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
  static Tensor forward(AutogradContext* context, const Tensor& x, double clip) {
    context->saved_data["clip"] = clip;
    return x.view_as(x);
  }
  static variable_list backward(AutogradContext* context, const variable_list& grads) {
    const double clip = context->saved_data["clip"].toDouble();
    return {grads[0].clamp(-clip, clip), Tensor()};
  }
};

// x / sum(x), and the gradient as if x had stayed.
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
  const RamModule& module = standard_modules()[static_cast<size_t>(operation)];
  Tensor table = at::zeros({M, M}, at::kInt);
  for (int64_t a = 0; a < M; ++a) {
    for (int64_t b = 0; b < M; ++b) {
      table[a][b] = static_cast<int64_t>(
          module.evaluate(static_cast<uint32_t>(a), static_cast<uint32_t>(b), static_cast<uint32_t>(M)));
    }
  }
  return table;
}

// The comparisons keep their sums, as the spaces they map to have two values.
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

using Pair = std::tuple<Tensor, Tensor>;
using Triple = std::tuple<Tensor, Tensor, Tensor>;

RamStepOptions options_of(const Tensor& registers, at::IntArrayRef modules, at::IntArrayRef operands,
                          const Tensor& lookup, double clip, bool renormalise) {
  TORCH_CHECK(registers.dim() == 3, "ram_step: registers must be [N, R, M], got ", registers.sizes());
  return {registers.size(1), modules.vec(), operands.vec(), lookup, clip, renormalise};
}

Pair forward_definition(const Tensor& logits, const Tensor& registers, const Tensor& tape, at::IntArrayRef modules,
                        at::IntArrayRef operands, const Tensor& lookup, double clip, bool renormalise) {
  return ram_step_definition(logits, registers, tape,
                             options_of(registers, modules, operands, lookup, clip, renormalise));
}

Triple backward_definition(const Tensor& grad_registers, const Tensor& grad_tape, const Tensor& logits,
                           const Tensor& registers, const Tensor& tape, at::IntArrayRef modules,
                           at::IntArrayRef operands, const Tensor& lookup, double clip, bool renormalise) {
  const RamStepOptions options = options_of(registers, modules, operands, lookup, clip, renormalise);
  const auto gradients = with_autograd([&] {
    const variable_list leaves = {logits.detach().requires_grad_(), registers.detach().requires_grad_(),
                                  tape.detach().requires_grad_()};
    const auto [new_registers, new_tape] = ram_step_definition(leaves[0], leaves[1], leaves[2], options);
    return torch::autograd::grad({new_registers, new_tape}, leaves, {grad_registers, grad_tape});
  });
  return {gradients[0], gradients[1], gradients[2]};
}

Pair call_forward(const Tensor& logits, const Tensor& registers, const Tensor& tape, at::IntArrayRef modules,
                  at::IntArrayRef operands, const Tensor& lookup, double clip, bool renormalise) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("loci::ram_step", "")
                             .typed<Pair(const Tensor&, const Tensor&, const Tensor&, at::IntArrayRef, at::IntArrayRef,
                                         const Tensor&, double, bool)>();
  return op.call(logits, registers, tape, modules, operands, lookup, clip, renormalise);
}

Triple call_backward(const Tensor& grad_registers, const Tensor& grad_tape, const Tensor& logits,
                     const Tensor& registers, const Tensor& tape, at::IntArrayRef modules, at::IntArrayRef operands,
                     const Tensor& lookup, double clip, bool renormalise) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("loci::ram_step_backward", "")
                             .typed<Triple(const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&,
                                           at::IntArrayRef, at::IntArrayRef, const Tensor&, double, bool)>();
  return op.call(grad_registers, grad_tape, logits, registers, tape, modules, operands, lookup, clip, renormalise);
}

struct Gradient : torch::autograd::Function<Gradient> {
  static variable_list forward(AutogradContext* context, const Tensor& logits, const Tensor& registers,
                               const Tensor& tape, at::IntArrayRef modules, at::IntArrayRef operands,
                               const Tensor& lookup, double clip, bool renormalise) {
    at::AutoDispatchBelowADInplaceOrView below_autograd;
    context->save_for_backward({logits, registers, tape, lookup});
    context->saved_data["modules"] = modules.vec();
    context->saved_data["operands"] = operands.vec();
    context->saved_data["clip"] = clip;
    context->saved_data["renormalise"] = renormalise;
    auto [new_registers, new_tape] =
        call_forward(logits, registers, tape, modules, operands, lookup, clip, renormalise);
    return {new_registers, new_tape};
  }
  static variable_list backward(AutogradContext* context, const variable_list& grads) {
    const auto saved = context->get_saved_variables();
    const auto modules = context->saved_data["modules"].toIntVector();
    const auto operands = context->saved_data["operands"].toIntVector();
    const auto or_zeros = [](const Tensor& grad, const Tensor& like) {
      return grad.defined() ? grad : at::zeros_like(like);
    };
    auto [logits, registers, tape] = call_backward(
        or_zeros(grads[0], saved[1]), or_zeros(grads[1], saved[2]), saved[0], saved[1], saved[2], modules, operands,
        saved[3], context->saved_data["clip"].toDouble(), context->saved_data["renormalise"].toBool());
    return {logits, registers, tape, Tensor(), Tensor(), Tensor(), Tensor(), Tensor()};
  }
};

Pair autograd_entry(const Tensor& logits, const Tensor& registers, const Tensor& tape, at::IntArrayRef modules,
                    at::IntArrayRef operands, const Tensor& lookup, double clip, bool renormalise) {
  const auto out = Gradient::apply(logits, registers, tape, modules, operands, lookup, clip, renormalise);
  return {out[0], out[1]};
}

Triple backward_autograd_entry(const Tensor& grad_registers, const Tensor& grad_tape, const Tensor& logits,
                               const Tensor& registers, const Tensor& tape, at::IntArrayRef modules,
                               at::IntArrayRef operands, const Tensor& lookup, double clip, bool renormalise) {
  const auto out = without_second_derivative("ram_step", {grad_registers, grad_tape, logits}, [&]() -> variable_list {
    auto [a, b, c] =
        call_backward(grad_registers, grad_tape, logits, registers, tape, modules, operands, lookup, clip, renormalise);
    return {a, b, c};
  });
  return {out[0], out[1], out[2]};
}

// On Meta, as compilation and export ask it: shapes alone.
Pair forward_shapes(const Tensor& logits, const Tensor& registers, const Tensor& tape, at::IntArrayRef modules,
                    at::IntArrayRef operands, const Tensor&, double, bool) {
  TORCH_CHECK(registers.dim() == 3 && tape.dim() == 3 && logits.dim() == 2,
              "ram_step: logits, registers and tape must be [N, O], [N, R, M] and [N, M, M], got ", logits.sizes(), ", ",
              registers.sizes(), " and ", tape.sizes());
  TORCH_CHECK(modules.size() == operands.size(), "ram_step: modules and operands must be as many, got ", modules.size(),
              " and ", operands.size());
  return {at::empty_like(registers), at::empty_like(tape)};
}
Triple backward_shapes(const Tensor&, const Tensor&, const Tensor& logits, const Tensor& registers, const Tensor& tape,
                       at::IntArrayRef, at::IntArrayRef, const Tensor&, double, bool) {
  return {at::empty_like(logits), at::empty_like(registers), at::empty_like(tape)};
}

}  // namespace

Pair ram_step(const Tensor& logits, const Tensor& registers, const Tensor& tape, const RamStepOptions& options) {
  return call_forward(logits, registers, tape, options.operation, options.operands, options.lookup, options.clip,
                      options.renormalise);
}

TORCH_LIBRARY_FRAGMENT(loci, m) {
  m.def(
      "ram_step(Tensor logits, Tensor registers, Tensor tape, int[] modules, int[] operands, Tensor lookup, float "
      "clip, "
      "bool renormalise) -> (Tensor, Tensor)");
  m.def(
      "ram_step_backward(Tensor grad_registers, Tensor grad_tape, Tensor logits, Tensor registers, Tensor tape, "
      "int[] modules, int[] operands, Tensor lookup, float clip, bool renormalise) -> (Tensor, Tensor, Tensor)");
}
TORCH_LIBRARY_IMPL(loci, CompositeExplicitAutograd, m) {
  m.impl("ram_step", forward_definition);
  m.impl("ram_step_backward", backward_definition);
}
TORCH_LIBRARY_IMPL(loci, Meta, m) {
  m.impl("ram_step", forward_shapes);
  m.impl("ram_step_backward", backward_shapes);
}
TORCH_LIBRARY_IMPL(loci, Autograd, m) {
  m.impl("ram_step", autograd_entry);
  m.impl("ram_step_backward", backward_autograd_entry);
}

}  // namespace loci
