// Legend: B samples, K inputs, O outputs, J terms of the basis.
#include "loci/nn/small/depth_layers.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/conv2d.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/tensordot.h>
#include <ATen/ops/zeros.h>
#include <c10/util/Exception.h>

#include <cmath>
#include <numbers>
#include <vector>

#include "loci/nn/initialise.h"

namespace loci {
namespace {

using at::Tensor;

// alpha [J, ..] with N(0, 1 / inputs) in its first term.
Tensor first_term(uint64_t seed, const std::string& name, const std::vector<int64_t>& sizes, int64_t inputs) {
  Tensor alpha = at::zeros(sizes);
  const std::vector<int64_t> one(sizes.begin() + 1, sizes.end());
  alpha[0].copy_(normal_start(seed, name, one, 1 / std::sqrt(static_cast<double>(inputs))));
  return alpha;
}

// psi of one s, without a tensor for each term.
std::vector<double> basis_at(double s, const DepthTerms& terms) {
  std::vector<double> psi = {1};
  const double u = 2 * s / terms.depth - 1;
  while (std::ssize(psi) < terms.terms) {
    const size_t j = psi.size();
    if (terms.basis == DepthBasis::fourier) {
      const double angle = 2 * std::numbers::pi * static_cast<double>((j + 1) / 2) * s / terms.depth;
      psi.push_back(j % 2 == 1 ? std::cos(angle) : std::sin(angle));
    } else {
      psi.push_back(j == 1 ? u : 2 * u * psi[j - 1] - psi[j - 2]);
    }
  }
  return psi;
}

void check_terms(const std::string& name, int64_t inputs, int64_t outputs, const DepthTerms& terms) {
  TORCH_CHECK(inputs > 0 && outputs > 0 && terms.terms > 0 && terms.depth != 0, name,
              ": inputs, outputs and terms must be above 0 and the depth not 0, got ", inputs, ", ", outputs, ", ",
              terms.terms, " and ", terms.depth);
}

// Not 0: a field without biases rests at 0, and no flow of the line passes a point of rest.
Tensor first_bias(uint64_t seed, const std::string& name, int64_t terms, int64_t outputs, int64_t inputs) {
  Tensor alpha = at::zeros({terms, outputs});
  alpha[0].copy_(uniform_start(seed, name, {outputs}, 1 / std::sqrt(static_cast<double>(inputs))));
  return alpha;
}

// theta(s) for one s.
Tensor at_depth(const Tensor& alpha, const Tensor& psi) {
  return at::tensordot(psi, alpha, {0}, {0});
}

// Outputs of all terms, term by term in dimension `dim`, weighted by each sample's psi [B, J].
Tensor weighted_terms(const Tensor& y, int64_t dim, const Tensor& psi) {
  std::vector<int64_t> shape(static_cast<size_t>(y.dim() + 1), 1);
  shape[0] = psi.size(0);
  shape[static_cast<size_t>(dim)] = psi.size(1);
  return (y.unflatten(dim, {psi.size(1), -1}) * psi.view(shape)).sum(dim);
}

}  // namespace

Tensor depth_basis(const Tensor& s, const DepthTerms& terms) {
  if (s.dim() == 0 && !s.requires_grad()) return at::tensor(basis_at(s.item<double>(), terms), s.options());
  std::vector<Tensor> psi = {at::ones_like(s)};
  const double pi = std::numbers::pi;
  const Tensor u = s * (2 / terms.depth) - 1;
  while (std::ssize(psi) < terms.terms) {
    const int64_t j = std::ssize(psi);
    if (terms.basis == DepthBasis::fourier) {
      const Tensor angle = s * (2 * pi * static_cast<double>((j + 1) / 2) / terms.depth);
      psi.push_back(j % 2 == 1 ? angle.cos() : angle.sin());
    } else {
      psi.push_back(j == 1 ? u : 2 * u * psi[psi.size() - 1] - psi[psi.size() - 2]);
    }
  }
  return at::stack(psi, -1);
}

DepthLinear::DepthLinear(const std::string& name, int64_t inputs, int64_t outputs, const DepthTerms& terms,
                         uint64_t seed)
    : Module("DepthLinear"), terms_(terms) {
  check_terms(name, inputs, outputs, terms);
  weight = register_parameter("weight", first_term(seed, name + ".weight", {terms.terms, outputs, inputs}, inputs));
  bias = register_parameter("bias", first_bias(seed, name + ".bias", terms.terms, outputs, inputs));
}

Tensor DepthLinear::forward(const Tensor& s, const Tensor& x) const {
  TORCH_CHECK(x.dim() > 0 && x.size(-1) == weight.size(2) && s.dim() <= 1, "DepthLinear: x must be [B, .., ",
              weight.size(2), "] and s [] or [B], got ", x.sizes(), " and ", s.sizes());
  if (terms_.terms == 1) return at::linear(x, weight.squeeze(0), bias.squeeze(0));
  const Tensor psi = depth_basis(s, terms_);
  if (s.dim() == 0) return at::linear(x, at_depth(weight, psi), at_depth(bias, psi));
  return weighted_terms(at::linear(x, weight.flatten(0, 1), bias.flatten()), x.dim() - 1, psi);
}

DepthConv2d::DepthConv2d(const std::string& name, int64_t channels, int64_t outputs, int64_t edge,
                         const DepthTerms& terms, uint64_t seed)
    : Module("DepthConv2d"), terms_(terms) {
  check_terms(name, channels, outputs, terms);
  TORCH_CHECK(edge > 0 && edge % 2 == 1, name, ": the edge must be odd, got ", edge);
  weight = register_parameter("weight", first_term(seed, name + ".weight", {terms.terms, outputs, channels, edge, edge},
                                                   channels * edge * edge));
  bias = register_parameter("bias", first_bias(seed, name + ".bias", terms.terms, outputs, channels * edge * edge));
}

Tensor DepthConv2d::forward(const Tensor& s, const Tensor& x) const {
  TORCH_CHECK(x.dim() == 4 && x.size(1) == weight.size(2) && s.dim() <= 1, "DepthConv2d: x must be [B, ",
              weight.size(2), ", height, width] and s [] or [B], got ", x.sizes(), " and ", s.sizes());
  const int64_t border = weight.size(-1) / 2;
  const auto product = [&](const Tensor& w, const Tensor& b) { return at::conv2d(x, w, b, 1, border); };
  if (terms_.terms == 1) return product(weight.squeeze(0), bias.squeeze(0));
  const Tensor psi = depth_basis(s, terms_);
  if (s.dim() == 0) return product(at_depth(weight, psi), at_depth(bias, psi));
  return weighted_terms(product(weight.flatten(0, 1), bias.flatten()), 1, psi);
}

}  // namespace loci
