// Legend: S seeds, B samples of each, M values and cells, P parameters, L lanes of a block, G reals of a block's
// gradient.
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>

#include <memory>
#include <tuple>
#include <vector>

#include "loci/base/cpu_level.h"
#include "loci/ops/ram_step/ram_step_definition.h"
#include "loci/ops/ram_unroll/ram_unroll_definition.h"
#include "loci/ops/ram_unroll/ram_unroll_kernel.h"

namespace loci {
namespace {

using at::Tensor;

template <class Real>
bool unroll_at_level(const RamUnrollArguments<Real>& a) {
  using Function = bool(const RamUnrollArguments<Real>&);
  return at_level<Function>(cpu_level(), base::ram_unroll, avx2::ram_unroll, avx512::ram_unroll)(a);
}

template <class Real>
class Memory {
 public:
  explicit Memory(int64_t reals)
      : data_(static_cast<Real*>(std::aligned_alloc(
                  kRamLaneBytes,
                  (static_cast<size_t>(reals) * sizeof(Real) + kRamLaneBytes) / kRamLaneBytes * kRamLaneBytes)),
              std::free) {
    TORCH_CHECK(data_ != nullptr, "ram_unroll: cannot allocate memory for ", reals, " numbers");
  }
  Real* get() const { return data_.get(); }

 private:
  std::unique_ptr<Real, decltype(&std::free)> data_;
};

// The blocks' gradients of one seed, in order, without the padding: the mean over samples.
template <class Real>
void reduce(const RamController& controller, const Real* blocks, int64_t count, int64_t stride, int64_t samples,
            Real* out) {
  const Real share = Real(1) / static_cast<Real>(samples);
  const auto add = [&](const Real* from, int64_t size, Real* to) {
    for (int64_t i = 0; i < size; ++i) to[i] = from[i];
    for (int64_t b = 1; b < count; ++b) {
      for (int64_t i = 0; i < size; ++i) to[i] += from[b * stride + i];
    }
    for (int64_t i = 0; i < size; ++i) to[i] *= share;
  };
  for (const RamLayer& layer : controller.layer) {
    const Real* from = blocks + layer.gradient;
    for (int64_t j = 0; j < layer.outputs; ++j)
      add(from + j * layer.padded, layer.inputs, out + layer.place + j * layer.inputs);
    add(from + layer.outputs * layer.padded, layer.outputs, out + layer.place + layer.outputs * layer.inputs);
  }
}

template <class Real>
RamUnrollOutput unroll_of(const Tensor& parameters, const RamUnrollInput& input, const RamUnrollOptions& options,
                          bool with_gradient) {
  constexpr int64_t L = ram_lanes<Real>();
  const int64_t S = input.tape.size(0), B = input.tape.size(1), M = input.tape.size(2), P = parameters.size(1);
  const RamMachineView view(options.machine, M);
  const RamController controller = ram_controller(view.machine, options.lstm, options.width, L);
  TORCH_CHECK(controller.parameters == P, "ram_unroll: parameters must be ", controller.parameters, ", got ", P);
  const auto type = parameters.options();
  RamUnrollOutput out;
  out.loss = at::empty({S, B}, type);
  out.entropy = at::empty({S, B}, type);
  out.wrong = at::empty({S, B}, type.dtype(at::kInt));
  out.gradient = at::empty({S, with_gradient ? P : 0}, type);
  out.sound = at::empty({S}, type.dtype(at::kBool));
  const int64_t blocks = (B + L - 1) / L, G = (controller.gradient + L - 1) / L * L;
  const int64_t* steps = input.steps.const_data_ptr<int64_t>();
  const int64_t longest = S > 0 ? *std::max_element(steps, steps + S) : 1;
  const Memory<Real> partial(with_gradient ? S * blocks * G : 0);
  std::vector<std::atomic<int64_t>> left(static_cast<size_t>(S));
  for (auto& count : left) count = blocks;
  std::vector<std::atomic<bool>> unsound(static_cast<size_t>(S));

  std::atomic<int64_t> next{0};  // seeds differ in their steps: threads take blocks one by one
  const auto work = [&] {
    const Memory<Real> workspace(ram_unroll_workspace(view.machine, controller, longest, L, with_gradient));
    for (int64_t item = next++; item < S * blocks; item = next++) {
      const int64_t s = item / blocks, first = item % blocks * L, at = s * B + first;
      RamUnrollArguments<Real> a = {};
      a.machine = &view.machine;
      a.controller = &controller;
      a.parameters = parameters.const_data_ptr<Real>() + s * P;
      a.samples = std::min(L, B - first);
      a.steps = steps[s];
      a.tape = input.tape.const_data_ptr<int32_t>() + at * M;
      a.target = input.target.const_data_ptr<int32_t>() + at * M;
      a.cell_weight = input.cell_weight.const_data_ptr<Real>() + at * M;
      a.mixture = options.mixture;
      a.floor = static_cast<Real>(options.floor);
      a.entropy_bonus = input.bonus.const_data_ptr<Real>()[s];
      a.workspace = workspace.get();
      a.gradient = with_gradient ? partial.get() + item * G : nullptr;
      a.loss = out.loss.mutable_data_ptr<Real>() + at;
      a.entropy = out.entropy.mutable_data_ptr<Real>() + at;
      a.wrong = out.wrong.mutable_data_ptr<int32_t>() + at;
      if (!unroll_at_level(a)) unsound[static_cast<size_t>(s)] = true;
      if (--left[static_cast<size_t>(s)] == 0 && with_gradient) {
        reduce(controller, partial.get() + s * blocks * G, blocks, G, B, out.gradient.mutable_data_ptr<Real>() + s * P);
      }
    }
  };
  at::parallel_for(0, std::min<int64_t>(at::get_num_threads(), S * blocks), 1, [&](int64_t begin, int64_t end) {
    if (begin < end) work();
  });
  out.objective =
      (out.loss - (input.bonus / input.steps.to(input.bonus.scalar_type())).unsqueeze(1) * out.entropy).mean(1);
  for (int64_t s = 0; s < S; ++s) out.sound.mutable_data_ptr<bool>()[s] = !unsound[static_cast<size_t>(s)];
  return out;
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> entry(
    const Tensor& parameters, const Tensor& tape, const Tensor& target, const Tensor& cell_weight, const Tensor& steps,
    const Tensor& bonus, int64_t registers, at::IntArrayRef modules, at::IntArrayRef operands, const Tensor& lookup,
    double clip, bool renormalise, bool lstm, int64_t width, bool mixture, double floor, bool with_gradient) {
  const RamUnrollOptions options = {
      {registers, modules.vec(), operands.vec(), lookup, clip, renormalise}, lstm, width, mixture, floor};
  const RamUnrollInput given = {tape.contiguous(), target.contiguous(), cell_weight.contiguous(), steps.contiguous(),
                                bonus.contiguous()};
  check_ram_unroll(parameters, given, options);
  const auto run = parameters.scalar_type() == at::kFloat ? unroll_of<float> : unroll_of<double>;
  const RamUnrollOutput out = run(parameters.contiguous(), given, options, with_gradient);
  return {out.objective, out.loss, out.entropy, out.wrong, out.gradient, out.sound};
}

TORCH_LIBRARY_IMPL(loci, CPU, m) {
  m.impl("ram_unroll", entry);
}

}  // namespace
}  // namespace loci
