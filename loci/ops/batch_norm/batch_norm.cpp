#include "loci/ops/batch_norm/batch_norm.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/rsqrt.h>
#include <ATen/ops/stack.h>

#include "loci/ops/batch_norm/batch_norm_definition.h"
#include "loci/ops/operator.h"

// Legend: T tokens, C features.

namespace loci {

using at::Tensor;

at::ScalarType batch_norm_result_type(const Tensor& x) {
  return x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
}

bool batch_norm_uses_batch(const Tensor& x, bool training) {
  return training && x.sym_size(0) >= 2;
}

namespace {

void check_norm_input(const char* who, const Tensor& x) {
  const auto type = x.scalar_type();
  TORCH_CHECK(x.dim() == 2, who, ": x must be [T, C], got ", x.sym_sizes());
  TORCH_CHECK(type == at::kFloat || type == at::kDouble || type == at::kBFloat16, who,
              ": x must be float32, float64 or bfloat16, got ", type);
}

}  // namespace

void check_batch_norm(const Tensor& x, const Tensor& gain, const Tensor& bias, const Tensor& running_mean,
                      const Tensor& running_variance) {
  check_norm_input("batch_norm", x);
  const auto type = batch_norm_result_type(x);
  for (const Tensor& other : {gain, bias, running_mean, running_variance}) {
    TORCH_CHECK(other.dim() == 1 && other.sym_size(0) == x.sym_size(1) && other.scalar_type() == type,
                "batch_norm: gain, bias and running statistics must be [", x.sym_size(1), "] of ", type, ", got ",
                other.sym_sizes(), " of ", other.scalar_type());
    TORCH_CHECK(other.device() == x.device(), "batch_norm: gain, bias and running statistics must be on ", x.device(),
                " like x, got ", other.device());
  }
}

void check_batch_norm_backward(const Tensor& grad, const Tensor& x, const Tensor& gain, const Tensor& statistics) {
  constexpr const char* who = "batch_norm_backward";
  check_norm_input(who, x);
  const auto type = batch_norm_result_type(x);
  TORCH_CHECK(grad.sym_sizes() == x.sym_sizes() && grad.scalar_type() == type, who, ": grad must be ", x.sym_sizes(),
              " of ", type, " like the result, got ", grad.sym_sizes(), " of ", grad.scalar_type());
  TORCH_CHECK(gain.dim() == 1 && gain.sym_size(0) == x.sym_size(1) && gain.scalar_type() == type, who,
              ": gain must be [", x.sym_size(1), "] of ", type, ", got ", gain.sym_sizes(), " of ", gain.scalar_type());
  TORCH_CHECK(statistics.dim() == 2 && statistics.sym_size(0) == 2 && statistics.sym_size(1) == x.sym_size(1) &&
                  statistics.scalar_type() == at::kDouble,
              who, ": statistics must be [2, ", x.sym_size(1), "] of Double, got ", statistics.sym_sizes(), " of ",
              statistics.scalar_type());
  for (const Tensor& other : {grad, gain, statistics}) {
    TORCH_CHECK(other.device() == x.device(), who, ": grad, gain and statistics must be on ", x.device(),
                " like x, got ", other.device());
  }
}

std::tuple<Tensor, Tensor> batch_norm_definition(const Tensor& x, const Tensor& gain, const Tensor& bias,
                                                 const Tensor& running_mean, const Tensor& running_variance,
                                                 bool training, double momentum, double epsilon) {
  check_batch_norm(x, gain, bias, running_mean, running_variance);
  const Tensor wide = x.to(batch_norm_result_type(x));
  Tensor mean = running_mean, variance = running_variance;
  if (batch_norm_uses_batch(x, training)) {
    mean = wide.mean(0);
    const Tensor squares = (wide - mean).square().sum(0);  // [C]
    variance = squares / x.sym_size(0);
    running_mean.mul_(1 - momentum).add_(mean, momentum);
    running_variance.mul_(1 - momentum).add_(squares / (x.sym_size(0) - 1), momentum);
  }
  const Tensor scale = at::rsqrt(variance + epsilon);  // [C]
  return {(wide - mean) * (scale * gain) + bias, at::stack({mean, scale}).to(at::kDouble)};
}

// With n = (x - mean) * scale: dx = gain * scale * (dy - average(dy) - n * average(dy * n)), without the averages where
// the statistics do not depend on x.
std::tuple<Tensor, Tensor, Tensor> batch_norm_backward_definition(const Tensor& grad, const Tensor& x,
                                                                  const Tensor& gain, const Tensor& statistics,
                                                                  bool of_batch) {
  check_batch_norm_backward(grad, x, gain, statistics);
  const auto type = grad.scalar_type();
  const Tensor scale = statistics.select(0, 1).to(type);                          // [C]
  const Tensor normal = (x.to(type) - statistics.select(0, 0).to(type)) * scale;  // [T, C]
  const Tensor centred = of_batch ? grad - grad.mean(0) - normal * (grad * normal).mean(0) : grad;
  return {(centred * (gain * scale)).to(x.scalar_type()), (grad * normal).sum(0), grad.sum(0)};
}

using Results = std::tuple<Tensor, Tensor>;

// The operator itself.
Results batch_norm_with_statistics(const Tensor& x, const Tensor& gain, const Tensor& bias, const Tensor& running_mean,
                                   const Tensor& running_variance, bool training, double momentum, double epsilon) {
  return call_operator<"loci::batch_norm", decltype(batch_norm_with_statistics)>(
      x, gain, bias, running_mean, running_variance, training, momentum, epsilon);
}

namespace {

std::vector<Tensor> batch_norm_gradient(const BackwardPass& pass) {
  const auto [x, gain, bias] =
      batch_norm_backward(pass.grad[0], pass.saved[0], pass.saved[1], pass.saved[2], pass.constants[0].toBool());
  return {x, gain, bias};
}

Results batch_norm_autograd_entry(const Tensor& x, const Tensor& gain, const Tensor& bias, const Tensor& running_mean,
                                  const Tensor& running_variance, bool training, double momentum, double epsilon) {
  return tuple_of<2>(once_differentiable<batch_norm_gradient>("batch_norm", {x, gain, bias}, [&] {
    const auto [y, statistics] =
        batch_norm_with_statistics(x, gain, bias, running_mean, running_variance, training, momentum, epsilon);
    const bool of_batch = batch_norm_uses_batch(x, training);
    if (of_batch) moves_versions_of({running_mean, running_variance});
    return ForwardPass{{y, statistics}, {x, gain, statistics}, {of_batch}, {statistics}};
  }));
}

}  // namespace

Tensor batch_norm(const Tensor& x, const Tensor& gain, const Tensor& bias, const Tensor& running_mean,
                  const Tensor& running_variance, bool training, double momentum, double epsilon) {
  return std::get<0>(
      batch_norm_with_statistics(x, gain, bias, running_mean, running_variance, training, momentum, epsilon));
}

std::tuple<Tensor, Tensor, Tensor> batch_norm_backward(const Tensor& grad, const Tensor& x, const Tensor& gain,
                                                       const Tensor& statistics, bool of_batch) {
  return call_operator<"loci::batch_norm_backward", decltype(batch_norm_backward)>(grad, x, gain, statistics, of_batch);
}

TORCH_LIBRARY_FRAGMENT(loci, m) {
  define_operator(m,
                  "batch_norm(Tensor x, Tensor gain, Tensor bias, Tensor(a!) running_mean, Tensor(b!) running_variance,"
                  " bool training, float momentum, float epsilon) -> (Tensor y, Tensor statistics)",
                  batch_norm_definition, batch_norm_autograd_entry);
  define_operator(m,
                  "batch_norm_backward(Tensor grad, Tensor x, Tensor gain, Tensor statistics, bool of_batch)"
                  " -> (Tensor, Tensor, Tensor)",
                  batch_norm_backward_definition, not_differentiable());
}
TORCH_LIBRARY_IMPL(loci, ADInplaceOrView, m) {
  m.impl("batch_norm", moves_versions());
}

}  // namespace loci
