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
#include <vector>

namespace loci {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// Features of a slice: a cache line or more of each token, and enough slices for the threads of a desktop.
constexpr int64_t kSlice = 64;

// Calls body(first, last) for slices of features; slices never depend on the thread count.
template <class Body>
void for_slices(int64_t features, const Body& body) {
  at::parallel_for(0, (features + kSlice - 1) / kSlice, 1, [&](int64_t begin, int64_t end) {
    for (int64_t s = begin; s < end; ++s) body(s * kSlice, std::min(features, (s + 1) * kSlice));
  });
}

// mean, deviation [C] in double; variance = biased. Differences to the first token keep the sums of squares exact
// enough when the common mean is large.
template <class T>
void statistics(const T* x, int64_t tokens, int64_t features, double* mean, double* variance) {
  for_slices(features, [&](int64_t first, int64_t last) {
    double sum[kSlice] = {}, square[kSlice] = {};
    const int64_t n = last - first;
    const T* origin = x + first;
    for (int64_t t = 0; t < tokens; ++t) {
      const T* row = x + t * features + first;
#pragma omp simd
      for (int64_t c = 0; c < n; ++c) {
        const double difference = static_cast<double>(row[c]) - static_cast<double>(origin[c]);
        sum[c] += difference;
        square[c] += difference * difference;
      }
    }
    for (int64_t c = 0; c < n; ++c) {
      const double shift = sum[c] / static_cast<double>(tokens);
      mean[first + c] = static_cast<double>(origin[c]) + shift;
      variance[first + c] = std::max(0.0, square[c] / static_cast<double>(tokens) - shift * shift);
    }
  });
}

template <class T>
void normalise(const T* x, const double* mean, const double* scale, const T* gain, const T* bias, int64_t tokens,
               int64_t features, T* y) {
  at::parallel_for(0, tokens, std::max<int64_t>(1, 32768 / features), [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
#pragma omp simd
      for (int64_t c = 0; c < features; ++c) {
        const double centred = static_cast<double>(x[t * features + c]) - mean[c];
        y[t * features + c] = static_cast<T>(centred * scale[c] * static_cast<double>(gain[c])) + bias[c];
      }
    }
  });
}

// dx = gain * scale * (dy - sum(dy) / T - xhat * sum(dy * xhat) / T) with xhat = (x - mean) * scale.
template <class T>
void gradient(const T* x, const T* dy, const double* mean, const double* scale, const T* gain, int64_t tokens,
              int64_t features, T* dx, T* dgain, T* dbias) {
  for_slices(features, [&](int64_t first, int64_t last) {
    double sum[kSlice] = {}, product[kSlice] = {};
    const int64_t n = last - first;
    for (int64_t t = 0; t < tokens; ++t) {
      const T* xs = x + t * features + first;
      const T* gs = dy + t * features + first;
#pragma omp simd
      for (int64_t c = 0; c < n; ++c) {
        const double g = static_cast<double>(gs[c]);
        sum[c] += g;
        product[c] += g * ((static_cast<double>(xs[c]) - mean[first + c]) * scale[first + c]);
      }
    }
    double a[kSlice], b[kSlice], shift[kSlice];
    for (int64_t c = 0; c < n; ++c) {
      dgain[first + c] = static_cast<T>(product[c]);
      dbias[first + c] = static_cast<T>(sum[c]);
      a[c] = static_cast<double>(gain[first + c]) * scale[first + c];
      b[c] = product[c] / static_cast<double>(tokens) * scale[first + c];
      shift[c] = sum[c] / static_cast<double>(tokens) - mean[first + c] * b[c];
    }
    for (int64_t t = 0; t < tokens; ++t) {
      const int64_t at = t * features + first;
#pragma omp simd
      for (int64_t c = 0; c < n; ++c) {
        const double value = static_cast<double>(dy[at + c]) - shift[c] - static_cast<double>(x[at + c]) * b[c];
        dx[at + c] = static_cast<T>(a[c] * value);
      }
    }
  });
}

struct BatchNorm : torch::autograd::Function<BatchNorm> {
  static Tensor forward(AutogradContext* context, const Tensor& input, const Tensor& gain, const Tensor& bias,
                        Tensor running_mean, Tensor running_variance, double momentum, double epsilon) {
    const Tensor x = input.contiguous();
    const int64_t tokens = x.size(0), features = x.size(1);
    const auto exact = x.options().dtype(at::kDouble);
    const Tensor mean = at::empty({features}, exact), variance = at::empty({features}, exact);
    Tensor y = at::empty_like(x);
    const auto run = [&]<class T>(T) {
      statistics(x.const_data_ptr<T>(), tokens, features, mean.mutable_data_ptr<double>(),
                 variance.mutable_data_ptr<double>());
    };
    x.scalar_type() == at::kDouble ? run(double{}) : run(float{});
    const Tensor scale = (variance + epsilon).rsqrt();
    const auto apply = [&]<class T>(T) {
      normalise(x.const_data_ptr<T>(), mean.const_data_ptr<double>(), scale.const_data_ptr<double>(),
                gain.contiguous().const_data_ptr<T>(), bias.contiguous().const_data_ptr<T>(), tokens, features,
                y.mutable_data_ptr<T>());
    };
    x.scalar_type() == at::kDouble ? apply(double{}) : apply(float{});

    const double unbiased = static_cast<double>(tokens) / static_cast<double>(tokens - 1);
    running_mean.mul_(1 - momentum).add_(mean.to(running_mean.scalar_type()), momentum);
    running_variance.mul_(1 - momentum).add_((variance * unbiased).to(running_variance.scalar_type()), momentum);
    context->save_for_backward({x, gain, mean, scale});
    return y;
  }

  static variable_list backward(AutogradContext* context, variable_list output_gradient) {
    TORCH_CHECK_NOT_IMPLEMENTED(!at::GradMode::is_enabled(), "batch_norm: a second derivative is not implemented");
    const variable_list saved = context->get_saved_variables();
    const Tensor &x = saved[0], &gain = saved[1], &mean = saved[2], &scale = saved[3];
    const Tensor dy = output_gradient[0].contiguous();
    Tensor dx = at::empty_like(x), dgain = at::empty_like(gain), dbias = at::empty_like(gain);
    const auto run = [&]<class T>(T) {
      gradient(x.const_data_ptr<T>(), dy.const_data_ptr<T>(), mean.const_data_ptr<double>(),
               scale.const_data_ptr<double>(), gain.contiguous().const_data_ptr<T>(), x.size(0), x.size(1),
               dx.mutable_data_ptr<T>(), dgain.mutable_data_ptr<T>(), dbias.mutable_data_ptr<T>());
    };
    x.scalar_type() == at::kDouble ? run(double{}) : run(float{});
    return {dx, dgain, dbias, Tensor(), Tensor(), Tensor(), Tensor()};
  }
};

}  // namespace

Tensor batch_norm(const Tensor& x, const Tensor& gain, const Tensor& bias, const Tensor& running_mean,
                  const Tensor& running_variance, bool training, double momentum, double epsilon) {
  const auto type = x.scalar_type();
  TORCH_CHECK(x.dim() == 2, "batch_norm: x must be [T, C], got ", x.sizes());
  TORCH_CHECK(type == at::kFloat || type == at::kDouble, "batch_norm: x must be float32 or float64, got ", type);
  for (const Tensor& other : {gain, bias, running_mean, running_variance}) {
    TORCH_CHECK(other.dim() == 1 && other.size(0) == x.size(1) && other.scalar_type() == type,
                "batch_norm: gain, bias and running statistics must be [", x.size(1), "] of ", type, ", got ",
                other.sizes(), " of ", other.scalar_type());
  }
  if (training && x.size(0) >= 2) {
    return BatchNorm::apply(x, gain, bias, running_mean, running_variance, momentum, epsilon);
  }
  const Tensor scale = gain * at::rsqrt(running_variance + epsilon);
  return at::addcmul(bias - running_mean * scale, x, scale);
}

}  // namespace loci
