#include "loci/ops/half_norm/half_norm_cpu.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <algorithm>

#include "loci/ops/half_norm/half_norm_definition.h"
#include "loci/ops/half_norm/half_norm_kernel.h"
#include "loci/ops/operator.h"

// Legend: T tokens, H heads, w width of a half, G = 2 H.

namespace loci {

using at::Tensor;

namespace {

// Tokens whose gradients of gain and bias are summed on their own, whatever the number of threads.
constexpr int64_t kTokensSummed = 256;
// Numbers worth a second thread.
constexpr int64_t kHalfNormGrain = 32768;

// Calls run with the functions for x's dtype.
template <class Run>
void with_real_functions(const Tensor& x, CpuLevel level, const Run& run) {
  const HalfNormKernel& kernel =
      at_level(level, base::half_norm_kernel, avx2::half_norm_kernel, avx512::half_norm_kernel);
  if (x.scalar_type() == at::kDouble) {
    run(kernel.float64);
  } else {
    run(kernel.float32);
  }
}

// [chunks, H, 2, w] -> [H, 2, w], in order.
Tensor sum_in_order(const Tensor& parts) {
  if (parts.size(0) == 0) return parts.sum(0);
  Tensor sum = parts[0];
  for (int64_t c = 1; c < parts.size(0); ++c) sum += parts[c];
  return sum;
}

}  // namespace

std::tuple<Tensor, Tensor, Tensor> half_norm_cpu(const Tensor& input, const Tensor& input_gain,
                                                 const std::optional<Tensor>& bias, double epsilon, CpuLevel level) {
  check_half_norm(input, input_gain, bias);
  if (input.numel() == 0) return half_norm_definition(input, input_gain, bias, epsilon);
  const Tensor x = input.contiguous(), gain = input_gain.contiguous();
  const Tensor shift = bias ? bias->contiguous() : Tensor();
  const int64_t T = x.size(0), H = x.size(1), G = 2 * H, w = x.size(3);
  Tensor y = at::empty(x.sizes(), x.options()), mean = at::empty({T, H, 2}, x.options()),
         scale = at::empty({T, H, 2}, x.options());
  with_real_functions(x, level, [&]<class Real>(const HalfNormFunctions<Real>& functions) {
    const int64_t grain = std::max<int64_t>(1, kHalfNormGrain / std::max<int64_t>(1, G * w));
    at::parallel_for(0, T, grain, [&](int64_t t, int64_t end) {
      functions.forward(x.const_data_ptr<Real>() + t * G * w, gain.const_data_ptr<Real>(),
                        bias ? shift.const_data_ptr<Real>() : nullptr, (end - t) * G, G, w, epsilon,
                        y.mutable_data_ptr<Real>() + t * G * w, mean.mutable_data_ptr<Real>() + t * G,
                        scale.mutable_data_ptr<Real>() + t * G);
    });
  });
  return {y, mean, scale};
}

std::tuple<Tensor, Tensor, Tensor> half_norm_backward_cpu(const Tensor& grad, const Tensor& input,
                                                          const Tensor& input_gain, const Tensor& input_mean,
                                                          const Tensor& input_scale, bool has_bias, CpuLevel level) {
  check_half_norm_backward(grad, input, input_gain, input_mean, input_scale);
  if (input.numel() == 0) {
    return half_norm_backward_definition(grad, input, input_gain, input_mean, input_scale, has_bias);
  }
  const Tensor x = input.contiguous(), gain = input_gain.contiguous(), dy = grad.contiguous();
  const Tensor mean = input_mean.contiguous(), scale = input_scale.contiguous();
  const int64_t T = x.size(0), G = 2 * x.size(1), w = x.size(3), chunks = (T + kTokensSummed - 1) / kTokensSummed;
  Tensor dx = at::empty(x.sizes(), x.options());
  const auto doubles = x.options().dtype(at::kDouble);
  const Tensor dgain = at::zeros({chunks, x.size(1), 2, w}, doubles);
  const Tensor dbias = has_bias ? at::zeros({chunks, x.size(1), 2, w}, doubles) : Tensor();
  with_real_functions(x, level, [&]<class Real>(const HalfNormFunctions<Real>& functions) {
    at::parallel_for(0, chunks, 1, [&](int64_t first, int64_t last) {
      for (int64_t c = first; c < last; ++c) {
        const int64_t t = c * kTokensSummed, tokens = std::min(kTokensSummed, T - t), at = t * G * w;
        functions.backward(x.const_data_ptr<Real>() + at, dy.const_data_ptr<Real>() + at,
                           mean.const_data_ptr<Real>() + t * G, scale.const_data_ptr<Real>() + t * G,
                           gain.const_data_ptr<Real>(), tokens * G, G, w, dx.mutable_data_ptr<Real>() + at,
                           dgain.mutable_data_ptr<double>() + c * G * w,
                           has_bias ? dbias.mutable_data_ptr<double>() + c * G * w : nullptr);
      }
    });
  });
  const auto type = x.scalar_type();
  return {dx, sum_in_order(dgain).to(type), has_bias ? sum_in_order(dbias).to(type) : Tensor()};
}

TORCH_LIBRARY_IMPL(loci, CPU, m) {
  m.impl("half_norm", at_cpu_level<half_norm_cpu>);
  m.impl("half_norm_backward", at_cpu_level<half_norm_backward_cpu>);
}

}  // namespace loci
