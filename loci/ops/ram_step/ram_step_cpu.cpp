// Legend: N samples, R registers, M values and cells, O logits, L lanes of a block.
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <torch/library.h>

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <tuple>

#include "loci/base/cpu_level.h"
#include "loci/ops/ram_step/ram_step_definition.h"

namespace loci {
namespace {

using at::Tensor;

template <class Real>
bool forward_at_level(const RamStepArguments<Real>& a) {
  using Function = bool(const RamStepArguments<Real>&);
  return at_level<Function>(cpu_level(), base::ram_step_forward, avx2::ram_step_forward, avx512::ram_step_forward)(a);
}
template <class Real>
bool backward_at_level(const RamStepArguments<Real>& a) {
  using Function = bool(const RamStepArguments<Real>&);
  return at_level<Function>(cpu_level(), base::ram_step_backward, avx2::ram_step_backward,
                            avx512::ram_step_backward)(a);
}

// Samples first .. first + L - 1 of [N, size] side by side: [size, L]. Lanes beyond N repeat the last sample.
template <class Real>
void gather(const Tensor& from, int64_t first, Real* to) {
  constexpr int64_t L = ram_lanes<Real>();
  const int64_t N = from.size(0), size = from.numel() / N;
  const Real* data = from.const_data_ptr<Real>();
  for (int64_t lane = 0; lane < L; ++lane) {
    const Real* sample = data + std::min(first + lane, N - 1) * size;
    for (int64_t x = 0; x < size; ++x) to[x * L + lane] = sample[x];
  }
}
template <class Real>
void scatter(const Real* from, int64_t first, const Tensor& to) {
  constexpr int64_t L = ram_lanes<Real>();
  const int64_t N = to.size(0), size = to.numel() / N;
  Real* data = to.mutable_data_ptr<Real>();
  for (int64_t lane = 0; lane < std::min(L, N - first); ++lane) {
    for (int64_t x = 0; x < size; ++x) data[(first + lane) * size + x] = from[x * L + lane];
  }
}

// Calls work(first sample, memory) for each block; memory has `reals` and is aligned.
template <class Real>
void for_each_block(int64_t N, int64_t reals, const auto& work) {
  constexpr int64_t L = ram_lanes<Real>();
  at::parallel_for(0, (N + L - 1) / L, 1, [&](int64_t begin, int64_t end) {
    const std::unique_ptr<Real[], decltype(&std::free)> memory(
        static_cast<Real*>(std::aligned_alloc(kRamLaneBytes, static_cast<size_t>(reals + L) / L * kRamLaneBytes)),
        std::free);
    TORCH_CHECK(memory != nullptr, "ram_step: memory must be enough, got none");
    for (int64_t block = begin; block < end; ++block) work(block * L, memory.get());
  });
}

template <class Real>
std::tuple<Tensor, Tensor> forward_of(const Tensor& logits, const Tensor& registers, const Tensor& tape,
                                      const RamStepOptions& options) {
  constexpr int64_t L = ram_lanes<Real>();
  const int64_t N = tape.size(0), M = tape.size(1), R = options.registers, O = options.logits();
  const RamMachineView view(options, M);
  Tensor new_registers = at::empty_like(registers), new_tape = at::empty_like(tape);
  if (N == 0) return {new_registers, new_tape};
  const int64_t reals = L * (O + 2 * R * M + 2 * M * M) + ram_step_workspace(view.machine, L);
  for_each_block<Real>(N, reals, [&](int64_t first, Real* memory) {
    RamStepArguments<Real> a = {};
    Real* in = memory;
    a.machine = &view.machine;
    a.logits = in, a.registers = in + O * L, a.tape = in + (O + R * M) * L;
    gather(logits, first, in);
    gather(registers, first, in + O * L);
    gather(tape, first, in + (O + R * M) * L);
    a.new_registers = in + (O + R * M + M * M) * L;
    a.new_tape = a.new_registers + R * M * L;
    a.workspace = a.new_tape + M * M * L;
    forward_at_level(a);
    scatter<Real>(a.new_registers, first, new_registers);
    scatter<Real>(a.new_tape, first, new_tape);
  });
  return {new_registers, new_tape};
}

template <class Real>
std::tuple<Tensor, Tensor, Tensor> backward_of(const Tensor& grad_registers, const Tensor& grad_tape,
                                               const Tensor& logits, const Tensor& registers, const Tensor& tape,
                                               const RamStepOptions& options) {
  constexpr int64_t L = ram_lanes<Real>();
  const int64_t N = tape.size(0), M = tape.size(1), R = options.registers, O = options.logits();
  const RamMachineView view(options, M);
  Tensor out_logits = at::empty_like(logits), out_registers = at::empty_like(registers),
         out_tape = at::empty_like(tape);
  if (N == 0) return {out_logits, out_registers, out_tape};
  const int64_t reals = L * 2 * (O + R * M + M * M) + ram_step_workspace(view.machine, L);
  for_each_block<Real>(N, reals, [&](int64_t first, Real* memory) {
    RamStepArguments<Real> a = {};
    Real* in = memory;
    a.machine = &view.machine;
    a.logits = in, a.registers = in + O * L, a.tape = in + (O + R * M) * L;
    gather(logits, first, in);
    gather(registers, first, in + O * L);
    gather(tape, first, in + (O + R * M) * L);
    a.gradient_logits = in + (O + R * M + M * M) * L;
    a.gradient_registers = a.gradient_logits + O * L;
    a.gradient_tape = a.gradient_registers + R * M * L;
    a.workspace = a.gradient_tape + M * M * L;
    gather(grad_registers, first, a.gradient_registers);
    gather(grad_tape, first, a.gradient_tape);
    backward_at_level(a);
    scatter<Real>(a.gradient_logits, first, out_logits);
    scatter<Real>(a.gradient_registers, first, out_registers);
    scatter<Real>(a.gradient_tape, first, out_tape);
  });
  return {out_logits, out_registers, out_tape};
}

std::tuple<Tensor, Tensor> forward_entry(const Tensor& logits, const Tensor& registers, const Tensor& tape,
                                         at::IntArrayRef modules, at::IntArrayRef operands, const Tensor& lookup,
                                         double clip, bool renormalise) {
  TORCH_CHECK(registers.dim() == 3, "ram_step: registers must be [N, R, M], got ", registers.sizes());
  const RamStepOptions options = {registers.size(1), modules.vec(), operands.vec(), lookup, clip, renormalise};
  check_ram_step(logits, registers, tape, options);
  const auto run = tape.scalar_type() == at::kFloat ? forward_of<float> : forward_of<double>;
  return run(logits.contiguous(), registers.contiguous(), tape.contiguous(), options);
}

std::tuple<Tensor, Tensor, Tensor> backward_entry(const Tensor& grad_registers, const Tensor& grad_tape,
                                                  const Tensor& logits, const Tensor& registers, const Tensor& tape,
                                                  at::IntArrayRef modules, at::IntArrayRef operands,
                                                  const Tensor& lookup, double clip, bool renormalise) {
  TORCH_CHECK(registers.dim() == 3, "ram_step: registers must be [N, R, M], got ", registers.sizes());
  const RamStepOptions options = {registers.size(1), modules.vec(), operands.vec(), lookup, clip, renormalise};
  check_ram_step(logits, registers, tape, options);
  check_ram_step(logits, grad_registers, grad_tape, options);
  const auto run = tape.scalar_type() == at::kFloat ? backward_of<float> : backward_of<double>;
  return run(grad_registers.contiguous(), grad_tape.contiguous(), logits.contiguous(), registers.contiguous(),
             tape.contiguous(), options);
}

TORCH_LIBRARY_IMPL(loci, CPU, m) {
  m.impl("ram_step", forward_entry);
  m.impl("ram_step_backward", backward_entry);
}

}  // namespace
}  // namespace loci
