#include "loci/ops/batch_norm/batch_norm_cpu.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <vector>

#include "loci/ops/batch_norm/batch_norm_definition.h"
#include "loci/ops/batch_norm/batch_norm_kernel.h"
#include "loci/ops/operator.h"

// Legend: T tokens, C features.

namespace loci {

using at::Tensor;

namespace {

constexpr int64_t kTokensOfChunk = 512;   // tokens whose sums are made on their own, whatever the number of threads
constexpr int64_t kNormElements = 32768;  // worth a thread
constexpr int64_t kSampled = 16;          // tokens whose mean the sums are taken from

// Calls run with the functions for x's dtype: numbers of x as Element (bfloat16 as bits), of the result as Real.
template <class Run>
void with_functions(const Tensor& x, CpuLevel level, const Run& run) {
  const BatchNormKernel& kernel =
      at_level(level, base::batch_norm_kernel, avx2::batch_norm_kernel, avx512::batch_norm_kernel);
  switch (x.scalar_type()) {
    case at::kDouble:
      return run(kernel.float64);
    case at::kFloat:
      return run(kernel.float32);
    default:
      return run(kernel.bfloat16);
  }
}

// Rows of one number a feature.
template <class Real>
struct FeatureRows {
  std::vector<Real> value;
  int64_t features;
  FeatureRows(int64_t rows, int64_t features) : value(rows * features), features(features) {}
  Real* operator[](int64_t row) { return value.data() + row * features; }
};

// Two sums of each feature over the tokens: those of the chunks, added in order.
template <class Sums>
FeatureRows<double> sums_of_chunks(int64_t tokens, int64_t features, const Sums& sums) {
  const int64_t chunks = std::max<int64_t>(1, (tokens + kTokensOfChunk - 1) / kTokensOfChunk);
  FeatureRows<double> part(2 * chunks, features);
  at::parallel_for(0, chunks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t c = begin; c < end; ++c) {
      sums(c * kTokensOfChunk, std::min(tokens, (c + 1) * kTokensOfChunk), part[2 * c], part[2 * c + 1]);
    }
  });
  for (int64_t c = 1; c < chunks; ++c) {
    for (int64_t i = 0; i < 2 * features; ++i) part[0][i] += part[2 * c][i];
  }
  return part;
}

template <class Run>
void over_tokens(int64_t tokens, int64_t features, const Run& run) {
  at::parallel_for(0, tokens, std::max<int64_t>(1, kNormElements / std::max<int64_t>(1, features)), run);
}

// Mean and biased variance of x, two rows. The sums are of differences from the mean of a few tokens, so that squares
// keep their precision.
template <class Element, class Real>
FeatureRows<double> batch_moments(const BatchNormFunctions<Element, Real>& functions, const Tensor& x) {
  const int64_t tokens = x.size(0), features = x.size(1);
  const auto* const from = static_cast<const Element*>(x.const_data_ptr());
  const Tensor sample =
      x.slice(0, 0, tokens, std::max<int64_t>(1, tokens / kSampled)).to(batch_norm_result_type(x)).mean(0);
  const Real* const origin = sample.const_data_ptr<Real>();
  FeatureRows<double> sum =
      sums_of_chunks(tokens, features, [&](int64_t first, int64_t last, double* difference, double* square) {
        functions.sums(from + first * features, origin, last - first, features, difference, square);
      });
  FeatureRows<double> moments(2, features);
  for (int64_t c = 0; c < features; ++c) {
    const double shift = sum[0][c] / static_cast<double>(tokens);
    const double variance = sum[1][c] / static_cast<double>(tokens) - shift * shift;
    moments[0][c] = static_cast<double>(origin[c]) + shift;
    moments[1][c] = variance < 0 ? 0 : variance;  // NaN stays
  }
  return moments;
}

// running := (1 - momentum) * running + momentum * factor * moment.
template <class Real>
void move_running(const Tensor& running, const double* moment, double momentum, double factor) {
  Tensor dense = running.contiguous();
  Real* const value = dense.mutable_data_ptr<Real>();
  const auto keep = static_cast<Real>(1 - momentum), take = static_cast<Real>(momentum);
  for (int64_t c = 0; c < dense.size(0); ++c) value[c] = keep * value[c] + take * static_cast<Real>(moment[c] * factor);
  if (!running.is_contiguous()) running.copy_(dense);
}

template <class Real>
FeatureRows<double> running_moments(const Tensor& running_mean, const Tensor& running_variance) {
  const Tensor mean = running_mean.contiguous(), variance = running_variance.contiguous();
  FeatureRows<double> moments(2, mean.size(0));
  std::copy_n(mean.const_data_ptr<Real>(), mean.size(0), moments[0]);
  std::copy_n(variance.const_data_ptr<Real>(), mean.size(0), moments[1]);
  return moments;
}

// The mean as the sum of two numbers of the type: what one leaves of it counts where it is many deviations from 0.
template <class Real>
void split_mean(const double* mean, int64_t features, Real* high, Real* low) {
  for (int64_t c = 0; c < features; ++c) {
    high[c] = static_cast<Real>(mean[c]);
    low[c] = static_cast<Real>(mean[c] - static_cast<double>(high[c]));
  }
}

template <class Element, class Real>
void normalise_tokens(const BatchNormFunctions<Element, Real>& functions, const Tensor& x, const Tensor& gain,
                      const Tensor& bias, const double* mean, const double* scale, Tensor& y) {
  const int64_t tokens = x.size(0), features = x.size(1);
  FeatureRows<Real> constant(3, features);  // mean, what is left of it, factor
  split_mean(mean, features, constant[0], constant[1]);
  for (int64_t c = 0; c < features; ++c) {
    constant[2][c] = static_cast<Real>(scale[c] * static_cast<double>(gain.const_data_ptr<Real>()[c]));
  }
  const auto* const from = static_cast<const Element*>(x.const_data_ptr());
  Real* const to = y.mutable_data_ptr<Real>();
  over_tokens(tokens, features, [&](int64_t begin, int64_t end) {
    functions.normalise(from + begin * features, constant[0], constant[1], constant[2], bias.const_data_ptr<Real>(),
                        end - begin, features, to + begin * features);
  });
}

// Writes the three gradients. Shift and slope are the averages of the batch, 0 where its statistics were not used.
template <class Element, class Real>
void gradient_of_tokens(const BatchNormFunctions<Element, Real>& functions, const Tensor& grad, const Tensor& x,
                        const Tensor& gain, const double* mean, const double* scale, bool of_batch, Tensor& dx,
                        Tensor& dgain, Tensor& dbias) {
  const int64_t tokens = x.size(0), features = x.size(1);
  const auto* const from = static_cast<const Element*>(x.const_data_ptr());
  const Real* const dy = grad.const_data_ptr<Real>();
  FeatureRows<Real> constant(5, features);  // mean, what is left of it, factor, shift, slope
  split_mean(mean, features, constant[0], constant[1]);
  FeatureRows<double> sum =
      sums_of_chunks(tokens, features, [&](int64_t first, int64_t last, double* of_bias, double* product) {
        functions.gradient_sums(from + first * features, dy + first * features, constant[0], constant[1], last - first,
                                features, of_bias, product);
      });
  const double share = of_batch ? 1 / static_cast<double>(tokens) : 0;
  for (int64_t c = 0; c < features; ++c) {
    const double of_gain = sum[1][c] * scale[c];
    dgain.mutable_data_ptr<Real>()[c] = static_cast<Real>(of_gain);
    dbias.mutable_data_ptr<Real>()[c] = static_cast<Real>(sum[0][c]);
    constant[2][c] = static_cast<Real>(static_cast<double>(gain.const_data_ptr<Real>()[c]) * scale[c]);
    constant[3][c] = static_cast<Real>(sum[0][c] * share);
    constant[4][c] = static_cast<Real>(of_gain * share * scale[c]);
  }
  auto* const to = static_cast<Element*>(dx.mutable_data_ptr());
  over_tokens(tokens, features, [&](int64_t begin, int64_t end) {
    functions.gradient(from + begin * features, dy + begin * features, constant[0], constant[1], constant[2],
                       constant[3], constant[4], end - begin, features, to + begin * features);
  });
}

}  // namespace

std::tuple<Tensor, Tensor> batch_norm_cpu(const Tensor& input, const Tensor& gain, const Tensor& bias,
                                          const Tensor& running_mean, const Tensor& running_variance, bool training,
                                          double momentum, double epsilon, CpuLevel level) {
  check_batch_norm(input, gain, bias, running_mean, running_variance);
  const Tensor x = input.contiguous();
  const int64_t tokens = x.size(0), features = x.size(1);
  Tensor y = at::empty(x.sizes(), gain.options());
  Tensor statistics = at::empty({2, features}, gain.options().dtype(at::kDouble));
  double *const mean = statistics.mutable_data_ptr<double>(), *const scale = mean + features;
  with_functions(x, level, [&]<class Element, class Real>(const BatchNormFunctions<Element, Real>& functions) {
    const bool of_batch = batch_norm_uses_batch(x, training);
    FeatureRows<double> moments =
        of_batch ? batch_moments(functions, x) : running_moments<Real>(running_mean, running_variance);
    if (of_batch) {
      const auto t = static_cast<double>(tokens);
      move_running<Real>(running_mean, moments[0], momentum, 1);
      move_running<Real>(running_variance, moments[1], momentum, t / (t - 1));
    }
    std::copy_n(moments[0], features, mean);
    functions.scales(moments[1], epsilon, features, scale);
    normalise_tokens(functions, x, gain.contiguous(), bias.contiguous(), mean, scale, y);
  });
  return {y, statistics};
}

std::tuple<Tensor, Tensor, Tensor> batch_norm_backward_cpu(const Tensor& grad, const Tensor& input,
                                                           const Tensor& input_gain, const Tensor& given_statistics,
                                                           bool of_batch, CpuLevel level) {
  check_batch_norm_backward(grad, input, input_gain, given_statistics);
  const Tensor x = input.contiguous(), gain = input_gain.contiguous(), statistics = given_statistics.contiguous();
  const double *const mean = statistics.const_data_ptr<double>(), *const scale = mean + x.size(1);
  Tensor dx = at::empty(x.sizes(), x.options()), dgain = at::empty(gain.sizes(), gain.options()),
         dbias = at::empty(gain.sizes(), gain.options());
  with_functions(x, level, [&](const auto& functions) {
    gradient_of_tokens(functions, grad.contiguous(), x, gain, mean, scale, of_batch, dx, dgain, dbias);
  });
  return {dx, dgain, dbias};
}

TORCH_LIBRARY_IMPL(loci, CPU, m) {
  m.impl("batch_norm", at_cpu_level<batch_norm_cpu>);
  m.impl("batch_norm_backward", at_cpu_level<batch_norm_backward_cpu>);
}

}  // namespace loci
