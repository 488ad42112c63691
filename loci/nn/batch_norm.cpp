#include "loci/nn/batch_norm.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/addcmul.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/rsqrt.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <type_traits>
#include <utility>
#include <vector>

#include "loci/base/cpu_level.h"
#include "loci/ops/batch_norm/batch_norm_kernel.h"

namespace loci {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

template <class Element, class Real>
const BatchNormKernel<Element, Real>& kernel() {
  const CpuLevel level = cpu_level();
  if constexpr (std::is_same_v<Element, double>) {
    return at_level(level, base::batch_norm_float64, avx2::batch_norm_float64, avx512::batch_norm_float64);
  } else if constexpr (std::is_same_v<Element, float>) {
    return at_level(level, base::batch_norm_float32, avx2::batch_norm_float32, avx512::batch_norm_float32);
  } else {
    return at_level(level, base::batch_norm_bfloat16, avx2::batch_norm_bfloat16, avx512::batch_norm_bfloat16);
  }
}

// Calls run with an x of the tensor's elements (bfloat16 as bits) and a y of the result's.
template <class Run>
void with_types(const Tensor& x, const Run& run) {
  switch (x.scalar_type()) {
    case at::kDouble:
      return run(double{}, double{});
    case at::kFloat:
      return run(float{}, float{});
    default:
      return run(uint16_t{}, float{});
  }
}

at::ScalarType result_type(const Tensor& x) {
  return x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
}

constexpr int64_t kTokenGrain = 32768;  // elements worth a thread

// Two sums of each feature over the tokens: of chunks of tokens, which depend on nothing else, and those in order.
template <class Sums>
std::pair<Tensor, Tensor> summed(int64_t tokens, int64_t features, const at::TensorOptions& options, const Sums& sums) {
  constexpr int64_t chunk = 512;
  const int64_t chunks = (tokens + chunk - 1) / chunk;
  const Tensor parts = at::empty({chunks, 2, features}, options.dtype(at::kDouble));
  double* const part = parts.mutable_data_ptr<double>();
  at::parallel_for(0, chunks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t c = begin; c < end; ++c) {
      double* const one = part + c * 2 * features;
      sums(c * chunk, std::min(tokens, (c + 1) * chunk), one, one + features);
    }
  });
  for (int64_t c = 1; c < chunks; ++c) {
    for (int64_t i = 0; i < 2 * features; ++i) part[i] += part[c * 2 * features + i];
  }
  return {parts[0][0], parts[0][1]};
}

struct BatchNorm : torch::autograd::Function<BatchNorm> {
  static Tensor forward(AutogradContext* context, const Tensor& input, const Tensor& gain, const Tensor& bias,
                        Tensor running_mean, Tensor running_variance, double momentum, double epsilon) {
    const Tensor x = input.contiguous(), dense_gain = gain.contiguous(), dense_bias = bias.contiguous();
    const int64_t tokens = x.size(0), features = x.size(1);
    Tensor y = at::empty_like(x, x.options().dtype(result_type(x))), mean, variance, scale;
    with_types(x, [&]<class Element, class Real>(Element, Real) {
      const auto* const from = static_cast<const Element*>(x.const_data_ptr());
      const auto [sum, square] =
          summed(tokens, features, x.options(), [&](int64_t first, int64_t last, double* one, double* other) {
            kernel<Element, Real>().sums(from + first * features, from, last - first, features, one, other);
          });
      const Tensor shift = sum / tokens;
      mean = x[0].to(at::kDouble) + shift;
      variance = (square / tokens - shift * shift).clamp_min(0);
      scale = (variance + epsilon).rsqrt();
      at::parallel_for(0, tokens, std::max<int64_t>(1, kTokenGrain / features), [&](int64_t begin, int64_t end) {
        kernel<Element, Real>().normalise(from + begin * features, mean.const_data_ptr<double>(),
                                          scale.const_data_ptr<double>(), dense_gain.const_data_ptr<Real>(),
                                          dense_bias.const_data_ptr<Real>(), end - begin, features,
                                          y.mutable_data_ptr<Real>() + begin * features);
      });
    });
    const double unbiased = static_cast<double>(tokens) / static_cast<double>(tokens - 1);
    running_mean.mul_(1 - momentum).add_(mean.to(running_mean.scalar_type()), momentum);
    running_variance.mul_(1 - momentum).add_((variance * unbiased).to(running_variance.scalar_type()), momentum);
    context->save_for_backward({x, gain, mean, scale});
    return y;
  }

  // dx = gain scale (dy - sum(dy) / T - xhat sum(dy xhat) / T) with xhat = (x - mean) scale.
  static variable_list backward(AutogradContext* context, variable_list output_gradient) {
    TORCH_CHECK_NOT_IMPLEMENTED(!at::GradMode::is_enabled(), "batch_norm: a second derivative is not implemented");
    const variable_list saved = context->get_saved_variables();
    const Tensor &x = saved[0], &gain = saved[1], &mean = saved[2], &scale = saved[3];
    const int64_t tokens = x.size(0), features = x.size(1);
    const Tensor dy = output_gradient[0].contiguous();
    Tensor dx = at::empty_like(x), dgain, dbias;
    with_types(x, [&]<class Element, class Real>(Element, Real) {
      const auto* const from = static_cast<const Element*>(x.const_data_ptr());
      auto* const to = static_cast<Element*>(dx.mutable_data_ptr());
      const Real* const grad = dy.const_data_ptr<Real>();
      const auto [sum, product] =
          summed(tokens, features, x.options(), [&](int64_t first, int64_t last, double* one, double* other) {
            kernel<Element, Real>().gradient_sums(from + first * features, grad + first * features,
                                                  mean.const_data_ptr<double>(), last - first, features, one, other);
          });
      const Tensor of_gain = product * scale;
      dgain = of_gain.to(gain.scalar_type());
      dbias = sum.to(gain.scalar_type());
      const Tensor factor = gain.to(at::kDouble) * scale, slope = of_gain / tokens * scale;
      const Tensor shift = sum / tokens - mean * slope;
      at::parallel_for(0, tokens, std::max<int64_t>(1, kTokenGrain / features), [&](int64_t begin, int64_t end) {
        kernel<Element, Real>().gradient(from + begin * features, grad + begin * features,
                                         factor.const_data_ptr<double>(), shift.const_data_ptr<double>(),
                                         slope.const_data_ptr<double>(), end - begin, features, to + begin * features);
      });
    });
    return {dx, dgain, dbias, Tensor(), Tensor(), Tensor(), Tensor()};
  }
};

// In one pass: the six operators of the definition below take longer than a token's products (decoding).
Tensor apply_running(const Tensor& input, const Tensor& gain, const Tensor& bias, const Tensor& running_mean,
                     const Tensor& running_variance, double epsilon) {
  const Tensor x = input.contiguous(), dense_gain = gain.contiguous(), dense_bias = bias.contiguous();
  const Tensor mean = running_mean.contiguous(), variance = running_variance.contiguous();
  const int64_t tokens = x.size(0), features = x.size(1);
  Tensor y = at::empty_like(x, x.options().dtype(result_type(x)));
  with_types(x, [&]<class Element, class Real>(Element, Real) {
    const auto* const from = static_cast<const Element*>(x.const_data_ptr());
    Real* const to = y.mutable_data_ptr<Real>();
    at::parallel_for(0, tokens, std::max<int64_t>(1, kTokenGrain / features), [&](int64_t begin, int64_t end) {
      const std::unique_ptr<Real[]> room(new Real[2 * features]);
      kernel<Element, Real>().apply(from + begin * features, mean.const_data_ptr<Real>(),
                                    variance.const_data_ptr<Real>(), dense_gain.const_data_ptr<Real>(),
                                    dense_bias.const_data_ptr<Real>(), static_cast<Real>(epsilon), end - begin,
                                    features, to + begin * features, room.get());
    });
  });
  return y;
}

}  // namespace

Tensor batch_norm(const Tensor& x, const Tensor& gain, const Tensor& bias, const Tensor& running_mean,
                  const Tensor& running_variance, bool training, double momentum, double epsilon) {
  const auto type = x.scalar_type();
  TORCH_CHECK(x.dim() == 2, "batch_norm: x must be [T, C], got ", x.sizes());
  TORCH_CHECK(type == at::kFloat || type == at::kDouble || type == at::kBFloat16,
              "batch_norm: x must be float32, float64 or bfloat16, got ", type);
  const auto result = result_type(x);
  for (const Tensor& other : {gain, bias, running_mean, running_variance}) {
    TORCH_CHECK(other.dim() == 1 && other.size(0) == x.size(1) && other.scalar_type() == result,
                "batch_norm: gain, bias and running statistics must be [", x.size(1), "] of ", result, ", got ",
                other.sizes(), " of ", other.scalar_type());
  }
  if (training && x.size(0) >= 2) {
    return BatchNorm::apply(x, gain, bias, running_mean, running_variance, momentum, epsilon);
  }
  const bool gradient =
      at::GradMode::is_enabled() && (x.requires_grad() || gain.requires_grad() || bias.requires_grad());
  if (!gradient && x.is_cpu()) return apply_running(x, gain, bias, running_mean, running_variance, epsilon);
  const Tensor scale = gain * at::rsqrt(running_variance + epsilon);
  return at::addcmul(bias - running_mean * scale, x.to(result), scale);
}

}  // namespace loci
