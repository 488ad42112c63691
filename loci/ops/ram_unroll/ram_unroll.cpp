// Legend: S seeds, B samples of each, R registers, M values and cells, O logits of a circuit, W width, T steps,
// P parameters.
#include "loci/ops/ram_unroll/ram_unroll.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/one_hot.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/sigmoid.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/tanh.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <torch/csrc/autograd/autograd.h>

#include "loci/ops/operator.h"
#include "loci/ops/ram_step/ram_step_definition.h"
#include "loci/ops/ram_unroll/ram_unroll_definition.h"

namespace loci {

using at::Tensor;
using torch::autograd::variable_list;

int64_t RamUnrollOptions::parameters() const {
  const int64_t R = machine.registers, W = width, O = machine.logits();
  const int64_t second = lstm ? 4 * W * (2 * W + 1) : W * (W + 1);
  return W * (R + 1) + second + (O + 1) * (W + 1);
}

void check_ram_unroll(const Tensor& parameters, const RamUnrollInput& input, const RamUnrollOptions& options) {
  const Tensor& tape = input.tape;
  TORCH_CHECK(tape.dim() == 3, "ram_unroll: tape must be [S, B, M], got ", tape.sizes());
  const int64_t S = tape.size(0), B = tape.size(1), M = tape.size(2);
  check_ram_machine("ram_unroll", options.machine, M);
  TORCH_CHECK(options.width >= 1, "ram_unroll: width must be at least 1, got ", options.width);
  TORCH_CHECK(options.floor > 0 && options.floor < 1, "ram_unroll: floor must be in (0, 1), got ", options.floor);
  TORCH_CHECK(parameters.scalar_type() == at::kFloat || parameters.scalar_type() == at::kDouble,
              "ram_unroll: parameters must be float32 or float64, got ", parameters.scalar_type());
  TORCH_CHECK(parameters.sizes() == at::IntArrayRef({S, options.parameters()}), "ram_unroll: parameters must be [", S,
              ", ", options.parameters(), "], got ", parameters.sizes());
  TORCH_CHECK(tape.scalar_type() == at::kInt && input.target.scalar_type() == at::kInt,
              "ram_unroll: tape and target must be int32, got ", tape.scalar_type(), " and ",
              input.target.scalar_type());
  TORCH_CHECK(input.target.sizes() == tape.sizes() && input.cell_weight.sizes() == tape.sizes(),
              "ram_unroll: target and cell_weight must be ", tape.sizes(), " as tape is, got ", input.target.sizes(),
              " and ", input.cell_weight.sizes());
  TORCH_CHECK(input.cell_weight.scalar_type() == parameters.scalar_type() &&
                  input.bonus.scalar_type() == parameters.scalar_type(),
              "ram_unroll: cell_weight and bonus must be ", parameters.scalar_type(), " as parameters are, got ",
              input.cell_weight.scalar_type(), " and ", input.bonus.scalar_type());
  TORCH_CHECK(input.steps.scalar_type() == at::kLong && input.steps.sizes() == at::IntArrayRef({S}) &&
                  input.bonus.sizes() == at::IntArrayRef({S}),
              "ram_unroll: steps must be int64 [", S, "] and bonus [", S, "], got ", input.steps.sizes(), " and ",
              input.bonus.sizes());
  if (S == 0) return;
  TORCH_CHECK(B > 0, "ram_unroll: samples must be at least 1, got 0");
  TORCH_CHECK(input.steps.min().item<int64_t>() >= 1, "ram_unroll: steps must be at least 1, got ",
              input.steps.min().item<int64_t>());
  TORCH_CHECK(tape.min().item<int>() >= 0 && tape.max().item<int>() < M, "ram_unroll: tape must hold 0 .. ", M - 1,
              ", got ", tape.min().item<int>(), " .. ", tape.max().item<int>());
  TORCH_CHECK(input.target.min().item<int>() >= -1 && input.target.max().item<int>() < M,
              "ram_unroll: target must hold -1 .. ", M - 1, ", got ", input.target.min().item<int>(), " .. ",
              input.target.max().item<int>());
}

Tensor ram_stop_definition(const Tensor& logits) {
  const int64_t T = logits.size(1);
  std::vector<Tensor> stop;
  Tensor left = at::ones({logits.size(0)}, logits.options());
  for (int64_t t = 0; t + 1 < T; ++t) {
    const Tensor f = at::sigmoid(logits.select(1, t).clamp(-30, 30));
    stop.push_back(f * left);
    left = left * (1 - f);
  }
  stop.push_back(left);
  return at::stack(stop, 1);
}

Tensor ram_loss_definition(const Tensor& tapes, const Tensor& stop, const Tensor& target, const Tensor& cell_weight,
                           bool mixture, double floor) {
  const int64_t T = tapes.size(1);
  const Tensor weight = at::where(target.ge(0), cell_weight, at::zeros_like(cell_weight));  // [N, M]
  const Tensor at_cell = target.clamp_min(0).to(at::kLong).unsqueeze(1).unsqueeze(3).expand({-1, T, -1, 1});
  const Tensor hit = tapes.gather(3, at_cell).squeeze(3);  // [N, T, M]
  if (mixture) return -(weight * (stop.unsqueeze(2) * hit).sum(1).clamp_min(floor).log()).sum(1);
  return -(stop.unsqueeze(2) * weight.unsqueeze(1) * hit.clamp_min(floor).log()).sum({1, 2});
}

namespace {

// The controller of one seed, with the state of an LSTM.
class ControllerDefinition {
 public:
  ControllerDefinition(const Tensor& parameters, const RamUnrollOptions& options, int64_t samples)
      : lstm_(options.lstm) {
    const int64_t W = options.width, R = options.machine.registers;
    int64_t offset = 0;
    const auto take = [&](int64_t outputs, int64_t inputs) {
      weight_.push_back(parameters.narrow(0, offset, outputs * inputs).reshape({outputs, inputs}));
      offset += outputs * inputs;
      bias_.push_back(parameters.narrow(0, offset, outputs));
      offset += outputs;
    };
    take(W, R);
    if (lstm_) {
      take(4 * W, 2 * W);
    } else {
      take(W, W);
    }
    take(options.machine.logits() + 1, W);
    cell_ = hidden_ = at::zeros({samples, W}, parameters.options());
  }

  Tensor operator()(const Tensor& x) {  // [B, R] -> [B, O + 1]
    Tensor h = at::linear(x, weight_[0], bias_[0]).relu();
    if (!lstm_) {
      h = at::linear(h, weight_[1], bias_[1]).relu();
    } else {
      const auto gate = at::linear(at::cat({h, hidden_}, 1), weight_[1], bias_[1]).chunk(4, 1);
      cell_ = at::sigmoid(gate[1]) * cell_ + at::sigmoid(gate[0]) * at::tanh(gate[2]);
      h = hidden_ = at::sigmoid(gate[3]) * at::tanh(cell_);
    }
    return at::linear(h, weight_[2], bias_[2]);
  }

 private:
  bool lstm_;
  std::vector<Tensor> weight_, bias_;
  Tensor cell_, hidden_;
};

struct SeedResult {
  Tensor loss, entropy, wrong;  // [B]
};

SeedResult unroll_seed(const Tensor& parameters, const Tensor& tape, const Tensor& target, const Tensor& cell_weight,
                       int64_t steps, const RamUnrollOptions& options) {
  const int64_t B = tape.size(0), M = tape.size(1), R = options.machine.registers, O = options.machine.logits();
  ControllerDefinition controller(parameters, options, B);
  Tensor memory = at::one_hot(tape.to(at::kLong), M).to(parameters.scalar_type());  // [B, M, M]
  Tensor registers = at::one_hot(at::zeros({B, R}, tape.options().dtype(at::kLong)), M).to(parameters.scalar_type());
  Tensor entropy = at::zeros({B}, parameters.options());
  std::vector<Tensor> tapes, stops;
  for (int64_t t = 0; t < steps; ++t) {
    const Tensor out = controller(registers.select(2, 0));
    const Tensor logits = out.narrow(1, 0, O);
    entropy = entropy + ram_entropy_definition(logits, options.machine);
    std::tie(registers, memory) = ram_step_definition(logits, registers, memory, options.machine);
    tapes.push_back(memory);
    stops.push_back(out.select(1, O));
  }
  const Tensor all = at::stack(tapes, 1);  // [B, T, M, M]
  const Tensor stop = ram_stop_definition(at::stack(stops, 1));
  const Tensor mixed = (stop.unsqueeze(2).unsqueeze(3) * all).sum(1);
  const Tensor wrong = (mixed.argmax(2).ne(target) * target.ge(0)).sum(1).to(at::kInt);
  return {ram_loss_definition(all, stop, target, cell_weight, options.mixture, options.floor), entropy, wrong};
}

}  // namespace

RamUnrollOutput ram_unroll_definition(const Tensor& parameters, const RamUnrollInput& input,
                                      const RamUnrollOptions& options, bool with_gradient) {
  check_ram_unroll(parameters, input, options);
  const int64_t S = input.tape.size(0), B = input.tape.size(1);
  RamUnrollOutput out;
  std::vector<Tensor> objective, loss, entropy, wrong, gradient;
  for (int64_t s = 0; s < S; ++s) {
    const int64_t steps = input.steps[s].item<int64_t>();
    const auto results = with_autograd([&]() -> variable_list {
      const Tensor leaf = parameters[s].detach().requires_grad_(with_gradient);
      const SeedResult seed = unroll_seed(leaf, input.tape[s], input.target[s], input.cell_weight[s], steps, options);
      // Gradients flow back as those of the samples' sum, so that the clips inside see no mean.
      const Tensor sum = (seed.loss - input.bonus[s] / steps * seed.entropy).sum();
      Tensor slope = at::zeros({0}, parameters.options());
      if (with_gradient) slope = torch::autograd::grad({sum}, {leaf})[0] / B;
      return {sum.detach() / B, seed.loss.detach(), seed.entropy.detach(), seed.wrong, slope};
    });
    objective.push_back(results[0]);
    loss.push_back(results[1]);
    entropy.push_back(results[2]);
    wrong.push_back(results[3]);
    gradient.push_back(results[4]);
  }
  const auto stacked = [&](const std::vector<Tensor>& parts, at::IntArrayRef empty, at::ScalarType type) {
    return S > 0 ? at::stack(parts) : at::zeros(empty, parameters.options().dtype(type));
  };
  const at::ScalarType type = parameters.scalar_type();
  out.objective = stacked(objective, {0}, type);
  out.loss = stacked(loss, {0, B}, type);
  out.entropy = stacked(entropy, {0, B}, type);
  out.wrong = stacked(wrong, {0, B}, at::kInt);
  out.gradient = stacked(gradient, {0, with_gradient ? parameters.size(1) : 0}, type);
  out.sound = out.objective.isfinite();
  return out;
}

namespace {

// On Meta, for compilation and export.
RamUnrollOutput unroll_on_meta(const Tensor& parameters, const RamUnrollInput& input, const RamUnrollOptions&,
                               bool with_gradient) {
  const Tensor& tape = input.tape;
  TORCH_CHECK(parameters.dim() == 2 && tape.dim() == 3,
              "ram_unroll: parameters and tape must be [S, P] and [S, B, M], got ", parameters.sizes(), " and ",
              tape.sizes());
  const c10::SymInt S = tape.sym_size(0), B = tape.sym_size(1);
  const c10::SymInt P = with_gradient ? parameters.sym_size(1) : c10::SymInt(0);
  const auto empty = [&](c10::SymIntArrayRef sizes, at::ScalarType type) {
    return at::empty_symint(sizes, parameters.options().dtype(type));
  };
  const auto real = parameters.scalar_type();
  return {empty({S}, real),        empty({S, B}, real), empty({S, B}, real),
          empty({S, B}, at::kInt), empty({S, P}, real), empty({S}, at::kBool)};
}

// The forward pass computes the gradient already.
std::vector<Tensor> unroll_gradient(const BackwardPass& pass) {
  return {pass.grad[0].unsqueeze(1) * pass.saved[0]};
}

RamUnrollOutput unroll_autograd(const Tensor& parameters, const RamUnrollInput& input, const RamUnrollOptions& options,
                                bool with_gradient) {
  std::vector<Tensor> inputs;
  if (with_gradient) inputs.push_back(parameters);
  const auto out = once_differentiable<unroll_gradient>("ram_unroll", inputs, [&] {
    const RamUnrollOutput r = ram_unroll(parameters, input, options, with_gradient);
    return ForwardPass{.results = {r.objective, r.loss, r.entropy, r.wrong, r.gradient, r.sound},
                       .saved = {r.gradient, parameters},  // the latter so that a second derivative is refused
                       .without_gradient = {r.loss, r.entropy, r.gradient}};
  });
  return {out[0], out[1], out[2], out[3], out[4], out[5]};
}

TORCH_LIBRARY_FRAGMENT(loci, m) {
  define_operator(
      m,
      "ram_unroll(Tensor parameters, Tensor tape, Tensor target, Tensor cell_weight, Tensor steps, Tensor bonus, "
      "int registers, int[] modules, int[] operands, Tensor lookup, float clip, bool renormalise, bool lstm, int "
      "width, bool mixture, float floor, bool with_gradient) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
      ram_unroll_operator<ram_unroll_definition>, ram_unroll_operator<unroll_autograd>);
}
TORCH_LIBRARY_IMPL(loci, Meta, m) {
  m.impl("ram_unroll", ram_unroll_operator<unroll_on_meta>);
}

}  // namespace

RamUnrollOutput ram_unroll(const Tensor& parameters, const RamUnrollInput& input, const RamUnrollOptions& options,
                           bool with_gradient) {
  const RamStepOptions& machine = options.machine;
  const auto [objective, loss, entropy, wrong, gradient, sound] =
      call_operator<"loci::ram_unroll", decltype(ram_unroll_operator<ram_unroll_definition>)>(
          parameters, input.tape, input.target, input.cell_weight, input.steps, input.bonus, machine.registers,
          machine.operation, machine.operands, machine.lookup, machine.clip, machine.renormalise, options.lstm,
          options.width, options.mixture, options.floor, with_gradient);
  return {objective, loss, entropy, wrong, gradient, sound};
}

}  // namespace loci
