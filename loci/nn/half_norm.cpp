#include "loci/nn/half_norm.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/addcmul.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/layer_norm.h>
#include <ATen/ops/rms_norm.h>
#include <ATen/ops/sum.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <type_traits>

#include "loci/base/cpu_level.h"
#include "loci/ops/half_norm/half_norm_kernel.h"

// Legend: T tokens, H heads, w width of a half, G = 2 H.

namespace loci {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// Tokens whose gradients of gain and bias are summed on their own, whatever the number of threads.
constexpr int64_t kNormChunk = 256;
// Numbers worth a second thread.
constexpr int64_t kNormGrain = 32768;

template <class Real>
const HalfNormKernel<Real>& half_norm_kernel() {
  const CpuLevel level = cpu_level();
  if constexpr (std::is_same_v<Real, double>) {
    return at_level(level, base::half_norm_float64, avx2::half_norm_float64, avx512::half_norm_float64);
  } else {
    return at_level(level, base::half_norm_float32, avx2::half_norm_float32, avx512::half_norm_float32);
  }
}

// [chunks, H, 2, w] -> [H, 2, w], in order.
Tensor sum_of_chunks(const Tensor& parts) {
  if (parts.size(0) == 0) return parts.sum(0);
  Tensor sum = parts[0];
  for (int64_t c = 1; c < parts.size(0); ++c) sum += parts[c];
  return sum;
}

struct HalfNorm : torch::autograd::Function<HalfNorm> {
  // Without a bias, any tensor stands for it: the framework takes no undefined ones.
  static Tensor forward(AutogradContext* context, const Tensor& input, const Tensor& input_gain,
                        const Tensor& input_bias, bool has_bias, double epsilon) {
    const Tensor x = input.contiguous(), gain = input_gain.contiguous(), bias = input_bias.contiguous();
    const int64_t T = x.size(0), G = 2 * x.size(1), w = x.size(3);
    Tensor y = at::empty_like(x), mean = at::empty({T, G}, x.options()), scale = at::empty({T, G}, x.options());
    const auto run = [&]<class Real>(Real) {
      const Real* const shift = has_bias ? bias.const_data_ptr<Real>() : nullptr;
      at::parallel_for(
          0, T, std::max<int64_t>(1, kNormGrain / std::max<int64_t>(1, G * w)), [&](int64_t t, int64_t end) {
            half_norm_kernel<Real>().forward(x.const_data_ptr<Real>() + t * G * w, gain.const_data_ptr<Real>(), shift,
                                   (end - t) * G, G, w, epsilon, y.mutable_data_ptr<Real>() + t * G * w,
                                   mean.mutable_data_ptr<Real>() + t * G, scale.mutable_data_ptr<Real>() + t * G);
          });
    };
    x.scalar_type() == at::kDouble ? run(double{}) : run(float{});
    context->save_for_backward({x, gain, mean, scale});
    context->saved_data["bias"] = has_bias;
    return y;
  }

  static variable_list backward(AutogradContext* context, variable_list output_gradient) {
    TORCH_CHECK_NOT_IMPLEMENTED(!at::GradMode::is_enabled(), "half_norm: a second derivative is not implemented");
    const variable_list saved = context->get_saved_variables();
    const Tensor &x = saved[0], &gain = saved[1], &mean = saved[2], &scale = saved[3];
    const bool has_bias = context->saved_data["bias"].toBool();
    const Tensor dy = output_gradient[0].contiguous();
    const int64_t T = x.size(0), G = 2 * x.size(1), w = x.size(3), chunks = (T + kNormChunk - 1) / kNormChunk;
    Tensor dx = at::empty_like(x);
    const Tensor dgain = at::zeros({chunks, x.size(1), 2, w}, x.options().dtype(at::kDouble));
    const Tensor dbias = has_bias ? at::zeros_like(dgain) : Tensor();
    const auto run = [&]<class Real>(Real) {
      at::parallel_for(0, chunks, 1, [&](int64_t first, int64_t last) {
        for (int64_t c = first; c < last; ++c) {
          const int64_t t = c * kNormChunk, tokens = std::min(kNormChunk, T - t), at = t * G * w;
          half_norm_kernel<Real>().backward(x.const_data_ptr<Real>() + at, dy.const_data_ptr<Real>() + at,
                                  mean.const_data_ptr<Real>() + t * G, scale.const_data_ptr<Real>() + t * G,
                                  gain.const_data_ptr<Real>(), tokens * G, G, w, dx.mutable_data_ptr<Real>() + at,
                                  dgain.mutable_data_ptr<double>() + c * G * w,
                                  has_bias ? dbias.mutable_data_ptr<double>() + c * G * w : nullptr);
        }
      });
    };
    x.scalar_type() == at::kDouble ? run(double{}) : run(float{});
    const auto type = x.scalar_type();
    return {dx, sum_of_chunks(dgain).to(type), has_bias ? sum_of_chunks(dbias).to(type) : Tensor(), Tensor(), Tensor()};
  }
};

}  // namespace

Tensor half_norm_definition(const Tensor& x, const Tensor& gain, const Tensor& bias, double epsilon) {
  const int64_t w = x.size(3);
  if (!bias.defined()) return at::rms_norm(x, {w}, {}, epsilon) * gain;
  return at::addcmul(bias, at::layer_norm(x, {w}, {}, {}, epsilon), gain);
}

Tensor half_norm(const Tensor& x, const Tensor& gain, const Tensor& bias, double epsilon) {
  TORCH_CHECK(x.dim() == 4 && x.size(2) == 2 && (x.scalar_type() == at::kFloat || x.scalar_type() == at::kDouble),
              "half_norm: x must be [T, H, 2, w] of float32 or float64, got ", x.sizes(), " of ", x.scalar_type());
  for (const Tensor& other : {gain, bias}) {
    TORCH_CHECK(!other.defined() || (other.sizes() == x.sizes().slice(1) && other.scalar_type() == x.scalar_type()),
                "half_norm: gain and bias must be ", x.sizes().slice(1), " of ", x.scalar_type(), ", got ",
                other.sizes(), " of ", other.scalar_type());
  }
  if (!x.is_cpu()) return half_norm_definition(x, gain, bias, epsilon);
  return HalfNorm::apply(x, gain, bias.defined() ? bias : gain, bias.defined(), epsilon);
}

}  // namespace loci
