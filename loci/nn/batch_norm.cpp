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
#include <vector>

#include "loci/base/cpu_level.h"
#include "loci/ops/batch_norm/batch_norm_kernel.h"

namespace loci {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

template <class T>
const BatchNormKernel<T>& kernel() {
  const CpuLevel level = cpu_level();
  if constexpr (std::is_same_v<T, double>) {
    return at_level(level, base::batch_norm_float64, avx2::batch_norm_float64, avx512::batch_norm_float64);
  } else {
    return at_level(level, base::batch_norm_float32, avx2::batch_norm_float32, avx512::batch_norm_float32);
  }
}

// Calls body(first, last) for slices of features; slices never depend on the thread count.
template <class Body>
void for_slices(int64_t features, const Body& body) {
  constexpr int64_t slice = BatchNormKernel<float>::slice;
  at::parallel_for(0, (features + slice - 1) / slice, 1, [&](int64_t begin, int64_t end) {
    for (int64_t s = begin; s < end; ++s) body(s * slice, std::min(features, (s + 1) * slice));
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
      for_slices(features, [&](int64_t first, int64_t last) {
        kernel<T>().statistics(x.const_data_ptr<T>(), tokens, features, first, last, mean.mutable_data_ptr<double>(),
                               variance.mutable_data_ptr<double>());
      });
    };
    x.scalar_type() == at::kDouble ? run(double{}) : run(float{});
    const Tensor scale = (variance + epsilon).rsqrt();
    const auto apply = [&]<class T>(T) {
      const Tensor dense_gain = gain.contiguous(), dense_bias = bias.contiguous();
      at::parallel_for(0, tokens, std::max<int64_t>(1, 32768 / features), [&](int64_t begin, int64_t end) {
        kernel<T>().normalise(x.const_data_ptr<T>() + begin * features, mean.const_data_ptr<double>(),
                              scale.const_data_ptr<double>(), dense_gain.const_data_ptr<T>(),
                              dense_bias.const_data_ptr<T>(), end - begin, features,
                              y.mutable_data_ptr<T>() + begin * features);
      });
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
      const Tensor dense_gain = gain.contiguous();
      for_slices(x.size(1), [&](int64_t first, int64_t last) {
        kernel<T>().gradient(x.const_data_ptr<T>(), dy.const_data_ptr<T>(), mean.const_data_ptr<double>(),
                             scale.const_data_ptr<double>(), dense_gain.const_data_ptr<T>(), x.size(0), x.size(1),
                             first, last, dx.mutable_data_ptr<T>(), dgain.mutable_data_ptr<T>(),
                             dbias.mutable_data_ptr<T>());
      });
    };
    x.scalar_type() == at::kDouble ? run(double{}) : run(float{});
    return {dx, dgain, dbias, Tensor(), Tensor(), Tensor(), Tensor()};
  }
};

// In one pass: the six operators of the definition below take longer than a token's products (decoding).
Tensor apply_running(const Tensor& input, const Tensor& gain, const Tensor& bias, const Tensor& running_mean,
                     const Tensor& running_variance, double epsilon) {
  const Tensor x = input.contiguous(), dense_gain = gain.contiguous(), dense_bias = bias.contiguous();
  const Tensor mean = running_mean.contiguous(), variance = running_variance.contiguous();
  const int64_t tokens = x.size(0), features = x.size(1);
  Tensor y = at::empty_like(x);
  const auto run = [&]<class T>(T) {
    T* const to = y.mutable_data_ptr<T>();
    at::parallel_for(0, tokens, std::max<int64_t>(1, 32768 / features), [&](int64_t begin, int64_t end) {
      const std::unique_ptr<T[]> room(new T[2 * features]);
      kernel<T>().apply(x.const_data_ptr<T>() + begin * features, mean.const_data_ptr<T>(),
                        variance.const_data_ptr<T>(), dense_gain.const_data_ptr<T>(), dense_bias.const_data_ptr<T>(),
                        static_cast<T>(epsilon), end - begin, features, to + begin * features, room.get());
    });
  };
  x.scalar_type() == at::kDouble ? run(double{}) : run(float{});
  return y;
}

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
  const bool gradient =
      at::GradMode::is_enabled() && (x.requires_grad() || gain.requires_grad() || bias.requires_grad());
  if (!gradient && x.is_cpu()) return apply_running(x, gain, bias, running_mean, running_variance, epsilon);
  const Tensor scale = gain * at::rsqrt(running_variance + epsilon);
  return at::addcmul(bias - running_mean * scale, x, scale);
}

}  // namespace loci
