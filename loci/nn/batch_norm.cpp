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

// Rows of one number a feature.
template <class Real>
struct Rows {
  std::vector<Real> value;
  int64_t features;
  Rows(int64_t rows, int64_t features) : value(rows * features), features(features) {}
  Real* operator[](int64_t row) { return value.data() + row * features; }
};

// Two sums of each feature over the tokens: of chunks of tokens, which depend on nothing else, and those in order.
template <class Sums>
Rows<double> summed(int64_t tokens, int64_t features, const Sums& sums) {
  constexpr int64_t chunk = 512;
  const int64_t chunks = (tokens + chunk - 1) / chunk;
  Rows<double> part(2 * chunks, features);
  at::parallel_for(0, chunks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t c = begin; c < end; ++c) {
      sums(c * chunk, std::min(tokens, (c + 1) * chunk), part[2 * c], part[2 * c + 1]);
    }
  });
  for (int64_t c = 1; c < chunks; ++c) {
    for (int64_t i = 0; i < 2 * features; ++i) part[0][i] += part[2 * c][i];
  }
  return part;
}

// The mean of about sixteen tokens, or of all: [C].
Tensor sample_mean(const Tensor& x, at::ScalarType type) {
  return x.slice(0, 0, x.size(0), std::max<int64_t>(1, x.size(0) / 16)).to(type).mean(0);
}

template <class Run>
void over_tokens(int64_t tokens, int64_t features, const Run& run) {
  at::parallel_for(0, tokens, std::max<int64_t>(1, kTokenGrain / features), run);
}

// What the batch's mean and 1 / deviation are, [2, C] in double; the running statistics take their share of them.
template <class Real, class Element>
Tensor statistics(const Tensor& x, double epsilon, double momentum, Real* running_mean, Real* running_variance) {
  const int64_t tokens = x.size(0), features = x.size(1);
  const auto* const from = static_cast<const Element*>(x.const_data_ptr());
  const Tensor sample = sample_mean(x, result_type(x));
  const Real* const origin = sample.const_data_ptr<Real>();
  Rows<double> sum = summed(tokens, features, [&](int64_t first, int64_t last, double* one, double* other) {
    kernel<Element, Real>().sums(from + first * features, origin, last - first, features, one, other);
  });
  Tensor result = at::empty({2, features}, x.options().dtype(at::kDouble));
  double *const mean = result.mutable_data_ptr<double>(), *const scale = mean + features;
  const auto t = static_cast<double>(tokens);
  for (int64_t c = 0; c < features; ++c) {
    const double shift = sum[0][c] / t, square = sum[1][c] / t - shift * shift;
    const double variance = square < 0 ? 0 : square;  // NaN stays
    mean[c] = static_cast<double>(origin[c]) + shift;
    scale[c] = 1 / std::sqrt(variance + epsilon);
    const auto keep = static_cast<Real>(1 - momentum), take = static_cast<Real>(momentum);
    running_mean[c] = keep * running_mean[c] + take * static_cast<Real>(mean[c]);
    running_variance[c] = keep * running_variance[c] + take * static_cast<Real>(variance * t / (t - 1));
  }
  return result;
}

// The mean as the sum of two numbers of the type.
template <class Real>
void split(const double* mean, int64_t features, Real* most, Real* rest) {
  for (int64_t c = 0; c < features; ++c) {
    most[c] = static_cast<Real>(mean[c]);
    rest[c] = static_cast<Real>(mean[c] - static_cast<double>(most[c]));
  }
}

struct BatchNorm : torch::autograd::Function<BatchNorm> {
  static Tensor forward(AutogradContext* context, const Tensor& input, const Tensor& gain, const Tensor& bias,
                        const Tensor& running_mean, const Tensor& running_variance, double momentum, double epsilon) {
    const Tensor x = input.contiguous(), dense_gain = gain.contiguous(), dense_bias = bias.contiguous();
    const int64_t tokens = x.size(0), features = x.size(1);
    Tensor y = at::empty_like(x, x.options().dtype(result_type(x))), known;
    with_types(x, [&]<class Element, class Real>(Element, Real) {
      Tensor dense_mean = running_mean.contiguous(), dense_variance = running_variance.contiguous();
      known = statistics<Real, Element>(x, epsilon, momentum, dense_mean.mutable_data_ptr<Real>(),
                                        dense_variance.mutable_data_ptr<Real>());
      if (!running_mean.is_contiguous()) running_mean.copy_(dense_mean);
      if (!running_variance.is_contiguous()) running_variance.copy_(dense_variance);
      const double *const mean = known.const_data_ptr<double>(), *const scale = mean + features;
      Rows<Real> constant(3, features);
      split(mean, features, constant[0], constant[1]);
      for (int64_t c = 0; c < features; ++c) {
        constant[2][c] = static_cast<Real>(scale[c] * static_cast<double>(dense_gain.const_data_ptr<Real>()[c]));
      }
      over_tokens(tokens, features, [&](int64_t begin, int64_t end) {
        kernel<Element, Real>().normalise(static_cast<const Element*>(x.const_data_ptr()) + begin * features,
                                          constant[0], constant[1], constant[2], dense_bias.const_data_ptr<Real>(),
                                          end - begin, features, y.mutable_data_ptr<Real>() + begin * features);
      });
    });
    context->save_for_backward({x, dense_gain, known});
    return y;
  }

  // dx = gain scale (dy - sum(dy) / T - xhat sum(dy xhat) / T) with xhat = (x - mean) scale.
  static variable_list backward(AutogradContext* context, variable_list output_gradient) {
    TORCH_CHECK_NOT_IMPLEMENTED(!at::GradMode::is_enabled(), "batch_norm: a second derivative is not implemented");
    const variable_list saved = context->get_saved_variables();
    const Tensor &x = saved[0], &gain = saved[1], &known = saved[2];
    const int64_t tokens = x.size(0), features = x.size(1);
    const Tensor dy = output_gradient[0].contiguous();
    Tensor dx = at::empty_like(x), dgain = at::empty_like(gain), dbias = at::empty_like(gain);
    with_types(x, [&]<class Element, class Real>(Element, Real) {
      const auto* const from = static_cast<const Element*>(x.const_data_ptr());
      const Real* const grad = dy.const_data_ptr<Real>();
      const double *const mean = known.const_data_ptr<double>(), *const scale = mean + features;
      Rows<Real> constant(5, features);
      split(mean, features, constant[0], constant[1]);
      Rows<double> sum = summed(tokens, features, [&](int64_t first, int64_t last, double* one, double* other) {
        kernel<Element, Real>().gradient_sums(from + first * features, grad + first * features, constant[0],
                                              constant[1], last - first, features, one, other);
      });
      const auto t = static_cast<double>(tokens);
      for (int64_t c = 0; c < features; ++c) {
        const double of_gain = sum[1][c] * scale[c];
        dgain.mutable_data_ptr<Real>()[c] = static_cast<Real>(of_gain);
        dbias.mutable_data_ptr<Real>()[c] = static_cast<Real>(sum[0][c]);
        constant[2][c] = static_cast<Real>(static_cast<double>(gain.const_data_ptr<Real>()[c]) * scale[c]);
        constant[3][c] = static_cast<Real>(sum[0][c] / t);
        constant[4][c] = static_cast<Real>(of_gain / t * scale[c]);
      }
      over_tokens(tokens, features, [&](int64_t begin, int64_t end) {
        kernel<Element, Real>().gradient(from + begin * features, grad + begin * features, constant[0], constant[1],
                                         constant[2], constant[3], constant[4], end - begin, features,
                                         static_cast<Element*>(dx.mutable_data_ptr()) + begin * features);
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
    over_tokens(tokens, features, [&](int64_t begin, int64_t end) {
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
