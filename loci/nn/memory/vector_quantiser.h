// Vector quantisation: each vector becomes the nearest code (van den Oord, Vinyals and Kavukcuoglu 2017, "Neural
// discrete representation learning"). Codes follow the vectors by moving averages; what a memory with one row a token
// is compared with.
//
// Legend: T tokens, D width, N codes, n_i vectors of a batch that code i is nearest to.
//
//   i(x) = argmin_i |x - e_i|^2,  the first of equal ones        output = e_i(x), its gradient goes to x (equation 2)
//   loss = commitment * mean over tokens and D of (x - e_i(x))^2, the code taken as a constant (equation 3)
//   N_i <- d N_i + (1 - d) n_i,  m_i <- d m_i + (1 - d) sum of its x,  e_i <- m_i / N_i      (appendix A.1)
//
// In training, a code with N_i below `replace_below` times the mean of all N becomes a vector of the batch.
#pragma once

#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>

#include <cstdint>
#include <string>

#include "loci/base/config_fields.h"

namespace loci {

struct VectorQuantiserOptions {
  int64_t codes = 4096;
  double decay = 0.99;
  double commitment = 0.25;
  double replace_below = 0.1;
  void fields(ConfigFields& f);
};

struct Quantised {
  at::Tensor output;  // [T, D], in x's dtype
  at::Tensor index;   // [T] int64
  at::Tensor loss;    // scalar, float32
};

class VectorQuantiser : public torch::nn::Module {
 public:
  // Codes start as N(0, 1 / D), by counter from (seed, name); nothing counts as used, so the first batch replaces them.
  VectorQuantiser(const std::string& name, const VectorQuantiserOptions& options, int64_t width, uint64_t seed);

  // x [T, D], any floating type. In training the codes move; which vectors replace codes follows from the seed and the
  // number of passes alone.
  Quantised forward(const at::Tensor& x);

  // How many codes the pass before replaced.
  int64_t replaced() const { return replaced_; }

  at::Tensor codes;   // e [N, D] float32; buffers
  at::Tensor counts;  // N_i [N] float32
  at::Tensor sums;    // m_i [N, D] float32
  at::Tensor passes;  // int64

 private:
  at::Tensor nearest(const at::Tensor& x) const;
  void follow(const at::Tensor& x, const at::Tensor& index);
  void replace_unused(const at::Tensor& x);

  VectorQuantiserOptions options_;
  std::string name_;
  uint64_t seed_;
  int64_t replaced_ = 0;
};

}  // namespace loci
