// Legend: S seeds, B samples of each, M values and cells, P parameters, L lanes of a block, G reals of a block's
// gradient.
#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <memory>
#include <vector>

#include "loci/base/cpu_level.h"
#include "loci/ops/ram_step/ram_machine_kernel.h"
#include "loci/ops/ram_unroll/ram_unroll_definition.h"
#include "loci/ops/ram_unroll/ram_unroll_kernel.h"

namespace loci {
namespace {

using at::Tensor;

template <class Real>
auto unroll_function() {
  const RamUnrollKernel& kernel =
      at_level(cpu_level(), base::ram_unroll_kernel, avx2::ram_unroll_kernel, avx512::ram_unroll_kernel);
  if constexpr (sizeof(Real) == sizeof(float)) {
    return kernel.float32;
  } else {
    return kernel.float64;
  }
}

// The kernel's view of the options.
class MachineView {
 public:
  MachineView(const RamStepOptions& options, int64_t M) : lookup_(options.lookup.contiguous()) {
    const int32_t* table = lookup_.const_data_ptr<int32_t>();
    for (size_t i = 0; i < options.operation.size(); ++i) {
      const int64_t operation = options.operation[i];
      const bool known = operation < kRamLookup;
      modules_.push_back({known ? static_cast<int32_t>(operation) : int32_t{kRamLookup},
                          static_cast<int32_t>(options.operands[i]),
                          known ? nullptr : table + (operation - kRamLookup) * M * M});
    }
    machine_ = {options.registers, std::ssize(modules_), M, modules_.data(), options.clip, options.renormalise};
  }
  MachineView(const MachineView&) = delete;
  MachineView& operator=(const MachineView&) = delete;
  const RamMachine& operator*() const { return machine_; }

 private:
  Tensor lookup_;
  std::vector<RamStepModule> modules_;
  RamMachine machine_;
};

template <class Real>
class AlignedReals {
 public:
  explicit AlignedReals(int64_t reals)
      : data_(static_cast<Real*>(std::aligned_alloc(
                  kRamLaneBytes,
                  (static_cast<size_t>(reals) * sizeof(Real) + kRamLaneBytes) / kRamLaneBytes * kRamLaneBytes)),
              std::free) {
    TORCH_CHECK_WITH(OutOfMemoryError, data_ != nullptr, "ram_unroll: memory must hold ", reals, " numbers, got none");
  }
  Real* get() const { return data_.get(); }

 private:
  std::unique_ptr<Real, decltype(&std::free)> data_;
};

// The mean over samples of one seed's gradient: adds those of the blocks, in order and without the padding.
template <class Real>
void mean_of_blocks(const RamController& controller, const Real* blocks, int64_t count, int64_t stride, int64_t samples,
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
    for (int64_t j = 0; j < layer.outputs; ++j) {
      add(from + j * layer.padded, layer.inputs, out + layer.offset + j * layer.inputs);
    }
    add(from + layer.outputs * layer.padded, layer.outputs, out + layer.offset + layer.outputs * layer.inputs);
  }
}

// All blocks of all seeds. Seeds differ in their steps, so threads take blocks one by one.
template <class Real>
class UnrollJob {
 public:
  static constexpr int64_t L = ram_lanes<Real>();

  UnrollJob(const Tensor& parameters, const RamUnrollInput& input, const RamUnrollOptions& options, bool with_gradient)
      : parameters_(parameters),
        input_(input),
        options_(options),
        with_gradient_(with_gradient),
        S(input.tape.size(0)),
        B(input.tape.size(1)),
        M(input.tape.size(2)),
        P(parameters.size(1)),
        machine_(options.machine, M),
        controller_(ram_controller(*machine_, options.lstm, options.width, L)),
        blocks_((B + L - 1) / L),
        G((controller_.gradient + L - 1) / L * L),
        block_gradient_(with_gradient ? S * blocks_ * G : 0),
        left_(static_cast<size_t>(S)),
        unsound_(static_cast<size_t>(S)) {
    const auto type = parameters.options();
    out_.loss = at::empty({S, B}, type);
    out_.entropy = at::empty({S, B}, type);
    out_.wrong = at::empty({S, B}, type.dtype(at::kInt));
    out_.gradient = at::empty({S, with_gradient ? P : 0}, type);
    out_.sound = at::empty({S}, type.dtype(at::kBool));
    for (auto& count : left_) count = blocks_;
  }

  RamUnrollOutput run() {
    const int64_t* steps = input_.steps.const_data_ptr<int64_t>();
    const int64_t longest = S > 0 ? *std::max_element(steps, steps + S) : 1;
    const int64_t reals = ram_unroll_workspace(*machine_, controller_, longest, L, with_gradient_);
    std::atomic<int64_t> next{0};
    at::parallel_for(0, std::min<int64_t>(at::get_num_threads(), S * blocks_), 1, [&](int64_t begin, int64_t end) {
      if (begin == end) return;
      const AlignedReals<Real> workspace(reals);
      for (int64_t item = next++; item < S * blocks_; item = next++) run_block(item, workspace.get());
    });
    const Tensor bonus = input_.bonus / input_.steps.to(input_.bonus.scalar_type());
    out_.objective = (out_.loss - bonus.unsqueeze(1) * out_.entropy).mean(1);
    for (int64_t s = 0; s < S; ++s) out_.sound.mutable_data_ptr<bool>()[s] = !unsound_[static_cast<size_t>(s)];
    return out_;
  }

 private:
  void run_block(int64_t item, Real* workspace) {
    const int64_t s = item / blocks_, first = item % blocks_ * L, sample = s * B + first;
    RamUnrollArguments<Real> a = {};
    a.machine = &*machine_;
    a.controller = &controller_;
    a.parameters = parameters_.const_data_ptr<Real>() + s * P;
    a.samples = std::min(L, B - first);
    a.steps = input_.steps.const_data_ptr<int64_t>()[s];
    a.tape = input_.tape.const_data_ptr<int32_t>() + sample * M;
    a.target = input_.target.const_data_ptr<int32_t>() + sample * M;
    a.cell_weight = input_.cell_weight.const_data_ptr<Real>() + sample * M;
    a.mixture = options_.mixture;
    a.floor = static_cast<Real>(options_.floor);
    a.entropy_bonus = input_.bonus.const_data_ptr<Real>()[s];
    a.workspace = workspace;
    a.gradient = with_gradient_ ? block_gradient_.get() + item * G : nullptr;
    a.loss = out_.loss.mutable_data_ptr<Real>() + sample;
    a.entropy = out_.entropy.mutable_data_ptr<Real>() + sample;
    a.wrong = out_.wrong.mutable_data_ptr<int32_t>() + sample;
    if (!unroll_(a)) unsound_[static_cast<size_t>(s)] = true;
    if (--left_[static_cast<size_t>(s)] == 0 && with_gradient_) {
      mean_of_blocks(controller_, block_gradient_.get() + s * blocks_ * G, blocks_, G, B,
                     out_.gradient.mutable_data_ptr<Real>() + s * P);
    }
  }

  const Tensor& parameters_;
  const RamUnrollInput& input_;
  const RamUnrollOptions& options_;
  const bool with_gradient_;
  const int64_t S, B, M, P;
  const MachineView machine_;
  const RamController controller_;
  const int64_t blocks_, G;
  const AlignedReals<Real> block_gradient_;  // [S, blocks, G]
  std::vector<std::atomic<int64_t>> left_;   // blocks of a seed that are not finished
  std::vector<std::atomic<bool>> unsound_;
  bool (*const unroll_)(const RamUnrollArguments<Real>&) = unroll_function<Real>();
  RamUnrollOutput out_;
};

RamUnrollOutput ram_unroll_cpu(const Tensor& parameters, const RamUnrollInput& input, const RamUnrollOptions& options,
                               bool with_gradient) {
  check_ram_unroll(parameters, input, options);
  const Tensor dense = parameters.contiguous();
  const RamUnrollInput given = {input.tape.contiguous(), input.target.contiguous(), input.cell_weight.contiguous(),
                                input.steps.contiguous(), input.bonus.contiguous()};
  return dense.scalar_type() == at::kFloat ? UnrollJob<float>(dense, given, options, with_gradient).run()
                                           : UnrollJob<double>(dense, given, options, with_gradient).run();
}

TORCH_LIBRARY_IMPL(loci, CPU, m) {
  m.impl("ram_unroll", ram_unroll_operator<ram_unroll_cpu>);
}

}  // namespace
}  // namespace loci
