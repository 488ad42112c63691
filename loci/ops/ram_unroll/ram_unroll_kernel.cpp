// Legend: R registers, M values and cells, O logits of a circuit, W width, T steps, L lanes. Everything of the block
// lies as [..., L] in the workspace; what the backward pass needs is kept for every step.
#include "loci/ops/ram_unroll/ram_unroll_kernel.h"

#include "loci/ops/ram_unroll/ram_circuit_kernel.h"
#include "loci/ops/ram_unroll/ram_layers_kernel.h"

namespace loci::LOCI_LEVEL {
namespace {

template <class Real>
class Unroll {
 public:
  static constexpr int64_t L = ram_lanes<Real>();

  explicit Unroll(const RamUnrollArguments<Real>& a)
      : a_(a),
        machine_(*a.machine),
        controller_(*a.controller),
        T(a.steps),
        R(machine_.registers),
        M(machine_.values),
        W(controller_.width),
        kept_(a.gradient != nullptr ? T : 1) {
    Real* memory = a.workspace;
    const auto take = [&memory](int64_t reals) {
      Real* begin = memory;
      memory += reals;
      return begin;
    };
    registers_ = take((kept_ + 1) * R * M * L);
    tapes_ = take((kept_ + 1) * M * M * L);
    for (int l = 0; l < 3; ++l) {
      const RamLayer& layer = controller_.layer[l];
      input_[l] = take((kept_ + 1) * layer.inputs * L);
      output_[l] = take((kept_ + 1) * layer.outputs * L);
      delta_[l] = take(kept_ * layer.outputs * L);
      transposed_[l] = take(kept_ * L * layer.padded);
      scratch_[l] = take(layer.inputs * L);
    }
    cell_ = take((kept_ + 1) * W * L);
    squashed_ = take((kept_ + 1) * W * L);
    carry_h_ = take(W * L);
    carry_c_ = take(W * L);
    halt_ = take(T * L);          // f_t
    remain_ = take((T + 1) * L);  // S_t: the probability that step t runs
    stop_ = take(T * L);          // p_t
    step_loss_ = take(T * L);
    stop_slope_ = take(T * L);
    hit_ = take(T * M * L);  // what step t's tape gives to the targets
    pull_ = take(M * L);     // weight / probability of a target, for the mixture
    mixed_ = take(M * M * L);
    gradient_registers_ = take(R * M * L);
    gradient_tape_ = take(M * M * L);
    circuit_memory_ = memory;
  }

  bool run() {
    Circuit<Real> circuit(machine_, circuit_memory_);
    forward(circuit);
    score();
    if (a_.gradient == nullptr) return circuit.sound();
    backward(circuit);
    for (int l = 0; l < 3; ++l) weight_gradient(controller_.layer[l], delta_[l], transposed_[l], T, a_.gradient);
    return circuit.sound();
  }

 private:
  int64_t slot(int64_t t) const { return a_.gradient != nullptr ? t : t & 1; }  // of T + 1 states
  int64_t once(int64_t t) const { return a_.gradient != nullptr ? t : 0; }      // of T steps
  Real* registers_at(int64_t t) { return registers_ + slot(t) * R * M * L; }
  Real* tape_at(int64_t t) { return tapes_ + slot(t) * M * M * L; }
  Real* input_at(int l, int64_t t) { return input_[l] + slot(t) * controller_.layer[l].inputs * L; }
  Real* output_at(int l, int64_t t) { return output_[l] + once(t) * controller_.layer[l].outputs * L; }
  Real* delta_at(int l, int64_t t) { return delta_[l] + t * controller_.layer[l].outputs * L; }
  Real* cell_at(int64_t t) { return cell_ + slot(t) * W * L; }
  Real* squashed_at(int64_t t) { return squashed_ + slot(t) * W * L; }

  void start() {
    set_zero(registers_at(0), R * M);
    for (int64_t r = 0; r < R; ++r) store(registers_at(0) + r * M * L, all(Real(1)));
    Real* tape = tape_at(0);
    set_zero(tape, M * M);
    for (int64_t i = 0; i < M; ++i) {
      for (int64_t lane = 0; lane < L; ++lane) {
        tape[(i * M + (lane < a_.samples ? a_.tape[lane * M + i] : 0)) * L + lane] = 1;
      }
    }
    set_zero(mixed_, M * M);
    store(remain_, all(Real(1)));
    if (controller_.lstm) {
      set_zero(input_at(1, 0) + W * L, W);
      set_zero(cell_at(0), W);
    }
  }

  void forward(Circuit<Real>& circuit) {
    start();
    Row<Real> entropy = all(Real(0));
    for (int64_t t = 0; t < T; ++t) {
      for (int64_t r = 0; r < R; ++r) store(input_at(0, t) + r * L, load(registers_at(t) + r * M * L));
      control(t);
      const Real* logits = output_at(2, t);
      circuit.choose(logits, &entropy);
      circuit.forward(registers_at(t), tape_at(t), registers_at(t + 1), tape_at(t + 1));
      halt(t, load(logits + (controller_.layer[2].outputs - 1) * L));
      observe(t);
    }
    alignas(kRamLaneBytes) Real lane[kRamLaneBytes / sizeof(Real)];
    store(lane, entropy);
    for (int64_t s = 0; s < a_.samples; ++s) a_.entropy[s] = lane[s];
  }

  static void rectify(Real* x, int64_t rows) {
    for (int64_t i = 0; i < rows; ++i) store(x + i * L, larger(all(Real(0)), load(x + i * L)));
  }
  void keep_transposed(int l, int64_t t) {
    const RamLayer& layer = controller_.layer[l];
    if (a_.gradient == nullptr) return;
    transpose(input_at(l, t), layer.inputs, layer.padded, transposed_[l] + t * L * layer.padded);
  }

  // Logits of step t from its input.
  void control(int64_t t) {
    keep_transposed(0, t);
    layer_forward(controller_.layer[0], a_.parameters, input_at(0, t), input_at(1, t));
    rectify(input_at(1, t), W);
    keep_transposed(1, t);
    if (controller_.lstm) {
      layer_forward(controller_.layer[1], a_.parameters, input_at(1, t), output_at(1, t));
      lstm_cell(t);
    } else {
      layer_forward(controller_.layer[1], a_.parameters, input_at(1, t), input_at(2, t));
      rectify(input_at(2, t), W);
    }
    keep_transposed(2, t);
    layer_forward(controller_.layer[2], a_.parameters, input_at(2, t), output_at(2, t));
  }

  // c' = f c + i g, h = o tanh(c'); h goes to the output layer and to the next step's gates.
  void lstm_cell(int64_t t) {
    Real* gate = output_at(1, t);
    for (int64_t w = 0; w < W; ++w) {
      for (int64_t part = 0; part < 4; ++part) {
        Real* own = gate + (part * W + w) * L;
        store(own, part == 2 ? tangent(load(own)) : sigmoid(load(own)));
      }
      const Row<Real> c =
          fma(load(gate + (W + w) * L), load(cell_at(t) + w * L), load(gate + w * L) * load(gate + (2 * W + w) * L));
      const Row<Real> squashed = tangent(c);
      const Row<Real> h = load(gate + (3 * W + w) * L) * squashed;
      store(cell_at(t + 1) + w * L, c);
      store(squashed_at(t + 1) + w * L, squashed);
      store(input_at(2, t) + w * L, h);
      store(input_at(1, t + 1) + (W + w) * L, h);
    }
  }
  static Row<Real> tangent(const Row<Real>& x) {
    const Row<Real> two = all(Real(2));
    return two * sigmoid(two * x) - all(Real(1));
  }

  // f_t, p_t and S_{t+1}; the last step takes what is left.
  void halt(int64_t t, const Row<Real>& logit) {
    const Row<Real> f = sigmoid(logit), left = load(remain_ + t * L);
    store(halt_ + t * L, f);
    store(stop_ + t * L, t + 1 < T ? f * left : left);
    store(remain_ + (t + 1) * L, left * (all(Real(1)) - f));
  }

  int32_t target(int64_t lane, int64_t cell) const { return lane < a_.samples ? a_.target[lane * M + cell] : -1; }
  bool is_output(int64_t cell) const {
    for (int64_t lane = 0; lane < a_.samples; ++lane) {
      if (target(lane, cell) >= 0) return true;
    }
    return false;
  }

  // Keeps what the loss and the error need of the tape after step t.
  void observe(int64_t t) {
    const Real* tape = tape_at(t + 1);
    const Row<Real> p = load(stop_ + t * L);
    for (int64_t i = 0; i < M; ++i) {
      if (!is_output(i)) continue;
      Real* hit = hit_ + (t * M + i) * L;
      for (int64_t lane = 0; lane < L; ++lane) {
        const int32_t y = target(lane, i);
        hit[lane] = y >= 0 ? tape[(i * M + y) * L + lane] : 1;
      }
      for (int64_t c = 0; c < M; ++c) {
        Real* sum = mixed_ + (i * M + c) * L;
        store(sum, fma(p, load(tape + (i * M + c) * L), load(sum)));
      }
    }
  }

  // Losses, errors, and the slopes that the backward pass begins with.
  void score() {
    alignas(kRamLaneBytes) Real loss[kRamLaneBytes / sizeof(Real)] = {};
    set_zero(step_loss_, T);
    set_zero(pull_, M);
    for (int64_t lane = 0; lane < a_.samples; ++lane) {
      a_.wrong[lane] = 0;
      for (int64_t i = 0; i < M; ++i) {
        const int32_t y = target(lane, i);
        if (y < 0) continue;
        const Real weight = a_.cell_weight[lane * M + i];
        a_.wrong[lane] += likeliest(i, lane) != y;
        if (a_.mixture) {
          const Real chance = mixed_[(i * M + y) * L + lane];
          loss[lane] -= weight * log_of(chance);
          const Real pull = chance >= a_.floor ? weight / chance : 0;
          pull_[i * L + lane] = pull;
          for (int64_t t = 0; t < T; ++t) step_loss_[t * L + lane] -= pull * hit_[(t * M + i) * L + lane];
        } else {
          for (int64_t t = 0; t < T; ++t) step_loss_[t * L + lane] -= weight * log_of(hit_[(t * M + i) * L + lane]);
        }
      }
      for (int64_t t = 0; t < T && !a_.mixture; ++t) loss[lane] += stop_[t * L + lane] * step_loss_[t * L + lane];
      a_.loss[lane] = loss[lane];
    }
    stop_slopes();
  }
  Real log_of(Real chance) const {
    return static_cast<Real>(log(static_cast<double>(chance > a_.floor ? chance : a_.floor)));
  }
  int32_t likeliest(int64_t cell, int64_t lane) const {
    int32_t best = 0;
    for (int64_t c = 1; c < M; ++c) {
      if (mixed_[(cell * M + c) * L + lane] > mixed_[(cell * M + best) * L + lane]) best = static_cast<int32_t>(c);
    }
    return best;
  }

  // ds_t = S_t (l_t - E_{t+1}) f_t (1 - f_t) with E_T = l_T, E_t = f_t l_t + (1 - f_t) E_{t+1}; ds_T = 0.
  void stop_slopes() {
    Row<Real> later = load(step_loss_ + (T - 1) * L);
    store(stop_slope_ + (T - 1) * L, all(Real(0)));
    for (int64_t t = T - 1; t-- > 0;) {
      const Row<Real> f = load(halt_ + t * L), own = load(step_loss_ + t * L), rest = all(Real(1)) - f;
      store(stop_slope_ + t * L, load(remain_ + t * L) * (own - later) * f * rest);
      later = fma(f, own, rest * later);
    }
  }

  // The loss's own gradient to the tape after step t.
  void add_loss_gradient(int64_t t) {
    for (int64_t lane = 0; lane < a_.samples; ++lane) {
      const Real p = stop_[t * L + lane];
      for (int64_t i = 0; i < M; ++i) {
        const int32_t y = target(lane, i);
        if (y < 0) continue;
        const Real hit = hit_[(t * M + i) * L + lane];
        const Real pull = a_.mixture ? pull_[i * L + lane] : hit >= a_.floor ? a_.cell_weight[lane * M + i] / hit : 0;
        gradient_tape_[(i * M + y) * L + lane] -= p * pull;
      }
    }
  }

  void backward(Circuit<Real>& circuit) {
    set_zero(gradient_registers_, R * M);
    set_zero(gradient_tape_, M * M);
    set_zero(carry_h_, W);
    set_zero(carry_c_, W);
    alignas(kRamLaneBytes) Real lane[kRamLaneBytes / sizeof(Real)] = {};
    for (int64_t s = 0; s < a_.samples; ++s) lane[s] = a_.entropy_bonus / static_cast<Real>(T);
    const Row<Real> bonus = load(lane);
    for (int64_t t = T; t-- > 0;) {
      add_loss_gradient(t);
      const Real* logits = output_at(2, t);
      Real* slope = delta_at(2, t);
      circuit.choose(logits, nullptr);
      circuit.forward(registers_at(t), tape_at(t), nullptr, nullptr);
      circuit.backward(tape_at(t), gradient_registers_, gradient_tape_, slope);
      circuit.choose_adjoint(logits, a_.entropy_bonus != 0 ? &bonus : nullptr, slope);
      store(slope + (controller_.layer[2].outputs - 1) * L, load(stop_slope_ + t * L));
      control_adjoint(t);
      for (int64_t r = 0; r < R; ++r) {
        Real* of_zero = gradient_registers_ + r * M * L;
        store(of_zero, load(of_zero) + load(scratch_[0] + r * L));
      }
    }
  }

  // Deltas of all layers and, in scratch_[0], the gradient of the controller's input.
  void control_adjoint(int64_t t) {
    layer_backward(controller_.layer[2], a_.parameters, delta_at(2, t), scratch_[2]);
    if (controller_.lstm) {
      lstm_adjoint(t);
    } else {
      rectify_adjoint(input_at(2, t), scratch_[2], delta_at(1, t));
    }
    layer_backward(controller_.layer[1], a_.parameters, delta_at(1, t), scratch_[1]);
    if (controller_.lstm) copy(scratch_[1] + W * L, W, carry_h_);
    rectify_adjoint(input_at(1, t), scratch_[1], delta_at(0, t));
    layer_backward(controller_.layer[0], a_.parameters, delta_at(0, t), scratch_[0]);
  }
  void rectify_adjoint(const Real* y, const Real* dy, Real* dx) const {
    for (int64_t w = 0; w < W; ++w) store(dx + w * L, where_positive(load(y + w * L), load(dy + w * L)));
  }
  void lstm_adjoint(int64_t t) {
    const Real* gate = output_at(1, t);
    Real* slope = delta_at(1, t);
    const Row<Real> one = all(Real(1));
    for (int64_t w = 0; w < W; ++w) {
      const Row<Real> i = load(gate + w * L), f = load(gate + (W + w) * L), g = load(gate + (2 * W + w) * L);
      const Row<Real> o = load(gate + (3 * W + w) * L), squashed = load(squashed_at(t + 1) + w * L);
      const Row<Real> dh = load(scratch_[2] + w * L) + load(carry_h_ + w * L);
      const Row<Real> dc = fma(dh * o, one - squashed * squashed, load(carry_c_ + w * L));
      store(slope + w * L, dc * g * i * (one - i));
      store(slope + (W + w) * L, dc * load(cell_at(t) + w * L) * f * (one - f));
      store(slope + (2 * W + w) * L, dc * i * (one - g * g));
      store(slope + (3 * W + w) * L, dh * squashed * o * (one - o));
      store(carry_c_ + w * L, dc * f);
    }
  }

  const RamUnrollArguments<Real>& a_;
  const RamMachine& machine_;
  const RamController& controller_;
  const int64_t T, R, M, W, kept_;
  Real *registers_, *tapes_, *input_[3], *output_[3], *delta_[3], *transposed_[3], *scratch_[3];
  Real *cell_, *squashed_, *carry_h_, *carry_c_;
  Real *halt_, *remain_, *stop_, *step_loss_, *stop_slope_, *hit_, *pull_, *mixed_;
  Real *gradient_registers_, *gradient_tape_, *circuit_memory_;
};

template <class Real>
bool unroll_block(const RamUnrollArguments<Real>& a) {
  return Unroll<Real>(a).run();
}

}  // namespace

const RamUnrollKernel ram_unroll_kernel = {unroll_block<float>, unroll_block<double>};

}  // namespace loci::LOCI_LEVEL
