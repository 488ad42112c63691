// Layers whose weights are functions of the depth s (Massaroli et al. 2020, "Dissecting neural ODEs", arXiv 2002.08071,
// section 3: the Galerkin form).
//
// Legend: B samples, K inputs, O outputs, J terms of the basis, D the depth over which it is laid.
//
//   theta(s) = sum over j of alpha_j psi_j(s),  j = 0 .. J - 1
//   fourier    psi = 1, cos(w s), sin(w s), cos(2 w s), sin(2 w s) ..  with w = 2 pi / D
//   chebyshev  psi_j = T_j(2 s / D - 1):  1, u, 2 u^2 - 1 ..
//
// alpha_0 starts as the weights of a plain layer, the others as 0: at the start the layer does not depend on s. J = 1
// is a plain layer. s is a number [], the same for all samples, or [B], each sample's own.
#pragma once

#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>

#include <cstdint>
#include <string>

namespace loci {

enum class DepthBasis { fourier, chebyshev };

struct DepthTerms {
  DepthBasis basis = DepthBasis::fourier;
  int64_t terms = 1;  // J
  double depth = 1;   // D
};

// psi(s): s [..] -> [.., J].
at::Tensor depth_basis(const at::Tensor& s, const DepthTerms& terms);

// x [B, .., K] -> x W(s)^T + b(s) [B, .., O].
class DepthLinear : public torch::nn::Module {
 public:
  // alpha_0 of the weights N(0, 1 / K), of the biases U(-1 / sqrt(K), 1 / sqrt(K)), by counter from (seed, name).
  DepthLinear(const std::string& name, int64_t inputs, int64_t outputs, const DepthTerms& terms, uint64_t seed);
  at::Tensor forward(const at::Tensor& s, const at::Tensor& x) const;

  at::Tensor weight;  // [J, O, K]
  at::Tensor bias;    // [J, O]

 private:
  DepthTerms terms_;
};

// x [B, C, height, width] -> [B, O, height, width]: an odd edge, stride 1, a border of 0.
class DepthConv2d : public torch::nn::Module {
 public:
  DepthConv2d(const std::string& name, int64_t channels, int64_t outputs, int64_t edge, const DepthTerms& terms,
              uint64_t seed);
  at::Tensor forward(const at::Tensor& s, const at::Tensor& x) const;

  at::Tensor weight;  // [J, O, C, edge, edge]
  at::Tensor bias;    // [J, O]

 private:
  DepthTerms terms_;
};

}  // namespace loci
