#include "loci/ops/half_norm/half_norm.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/rsqrt.h>
#include <ATen/ops/zeros.h>

#include "loci/ops/half_norm/half_norm_definition.h"
#include "loci/ops/operator.h"

// Legend: T tokens, H heads, w width of a half.

namespace loci {

using at::Tensor;

void check_half_norm(const Tensor& x, const Tensor& gain, const std::optional<Tensor>& bias) {
  TORCH_CHECK(x.dim() == 4 && x.sym_size(2) == 2 && (x.scalar_type() == at::kFloat || x.scalar_type() == at::kDouble),
              "half_norm: x must be [T, H, 2, w] of float32 or float64, got ", x.sym_sizes(), " of ", x.scalar_type());
  const auto check_one = [&](const Tensor& other) {
    TORCH_CHECK(other.sym_sizes() == x.sym_sizes().slice(1) && other.scalar_type() == x.scalar_type() &&
                    other.device() == x.device(),
                "half_norm: gain and bias must be ", x.sym_sizes().slice(1), " of ", x.scalar_type(), " on ",
                x.device(), ", got ", other.sym_sizes(), " of ", other.scalar_type(), " on ", other.device());
  };
  check_one(gain);
  if (bias) check_one(*bias);
}

void check_half_norm_backward(const Tensor& grad, const Tensor& x, const Tensor& gain, const Tensor& mean,
                              const Tensor& scale) {
  check_half_norm(x, gain, std::nullopt);
  const auto check_one = [&](const char* name, const Tensor& other, c10::SymIntArrayRef sizes) {
    TORCH_CHECK(other.sym_sizes() == sizes && other.scalar_type() == x.scalar_type() && other.device() == x.device(),
                "half_norm_backward: ", name, " must be ", sizes, " of ", x.scalar_type(), " on ", x.device(), ", got ",
                other.sym_sizes(), " of ", other.scalar_type(), " on ", other.device());
  };
  check_one("grad", grad, x.sym_sizes());
  check_one("mean", mean, x.sym_sizes().slice(0, 3));
  check_one("scale", scale, x.sym_sizes().slice(0, 3));
}

std::tuple<Tensor, Tensor, Tensor> half_norm_definition(const Tensor& x, const Tensor& gain,
                                                        const std::optional<Tensor>& bias, double epsilon) {
  check_half_norm(x, gain, bias);
  const Tensor mean = bias ? x.mean(-1) : at::zeros_symint(x.sym_sizes().slice(0, 3), x.options());  // [T, H, 2]
  const Tensor centred = x - mean.unsqueeze(-1);
  const Tensor scale = at::rsqrt(centred.square().mean(-1) + epsilon);  // [T, H, 2]
  const Tensor y = centred * scale.unsqueeze(-1) * gain;
  return {bias ? y + *bias : y, mean, scale};
}

// With n = (x - mean) * scale and g = dy * gain: dx = scale * (g - average(g) - n * average(g * n)), without the first
// average for the RMS norm.
std::tuple<Tensor, Tensor, Tensor> half_norm_backward_definition(const Tensor& grad, const Tensor& x,
                                                                 const Tensor& gain, const Tensor& mean,
                                                                 const Tensor& scale, bool has_bias) {
  check_half_norm_backward(grad, x, gain, mean, scale);
  const Tensor normal = (x - mean.unsqueeze(-1)) * scale.unsqueeze(-1), scaled = grad * gain;  // [T, H, 2, w]
  Tensor dx = scaled - normal * (scaled * normal).mean(-1, /*keepdim=*/true);
  if (has_bias) dx = dx - scaled.mean(-1, /*keepdim=*/true);
  return {dx * scale.unsqueeze(-1), (grad * normal).sum(0), has_bias ? grad.sum(0) : Tensor()};
}

namespace {

using Triple = std::tuple<Tensor, Tensor, Tensor>;

// The operator gives mean and scale too, which the gradient needs.
Triple half_norm_with_statistics(const Tensor& x, const Tensor& gain, const std::optional<Tensor>& bias,
                                 double epsilon) {
  return call_operator<"loci::half_norm", decltype(half_norm_with_statistics)>(x, gain, bias, epsilon);
}

std::vector<Tensor> half_norm_gradient(const BackwardPass& pass) {
  const auto [x, gain, bias] = half_norm_backward(pass.grad[0], pass.saved[0], pass.saved[1], pass.saved[2],
                                                  pass.saved[3], pass.constants[0].toBool());
  return {x, gain, bias};
}

Triple half_norm_autograd_entry(const Tensor& x, const Tensor& gain, const std::optional<Tensor>& bias,
                                double epsilon) {
  return tuple_of<3>(once_differentiable<half_norm_gradient>("half_norm", {x, gain, bias.value_or(Tensor())}, [&] {
    const auto [y, mean, scale] = half_norm_with_statistics(x, gain, bias, epsilon);
    return ForwardPass{{y, mean, scale}, {x, gain, mean, scale}, {bias.has_value()}, {mean, scale}};
  }));
}

}  // namespace

Tensor half_norm(const Tensor& x, const Tensor& gain, const std::optional<Tensor>& bias, double epsilon) {
  return std::get<0>(half_norm_with_statistics(x, gain, bias, epsilon));
}

Triple half_norm_backward(const Tensor& grad, const Tensor& x, const Tensor& gain, const Tensor& mean,
                          const Tensor& scale, bool has_bias) {
  return call_operator<"loci::half_norm_backward", decltype(half_norm_backward)>(grad, x, gain, mean, scale, has_bias);
}

TORCH_LIBRARY_FRAGMENT(loci, m) {
  define_operator(
      m, "half_norm(Tensor x, Tensor gain, Tensor? bias, float epsilon) -> (Tensor y, Tensor mean, Tensor scale)",
      half_norm_definition, half_norm_autograd_entry);
  define_operator(m,
                  "half_norm_backward(Tensor grad, Tensor x, Tensor gain, Tensor mean, Tensor scale, bool has_bias)"
                  " -> (Tensor, Tensor, Tensor)",
                  half_norm_backward_definition, not_differentiable());
}

}  // namespace loci
