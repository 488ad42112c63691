// Networks that learn classes from a support set of a few examples of each.
//
// Legend: K ways (classes), n shots (examples of each), N = K n support images, Q queries, C channels, E channels of
// the set encoder.
//
//   features f(x)       four times: relu(group norm(3x3 convolution)), 2x2 max pool; mean over what is left    [C]
//   prototypical        mu_k = mean of f(x) over class k; logit_k = -|f(q) - mu_k|^2
//                       (Snell, Swersky and Zemel 2017, "Prototypical networks for few-shot learning")
//   mahalanobis         z = mean over the support of e(x), a network of the same form with E channels
//                       each norm of f is followed by (1 + g) * y + b of a channel, (g, b) = linear(z)       (FiLM)
//                       Sigma'_k = l Sigma_k + (1 - l) Sigma + I, l = n / (n + 1)
//                       logit_k = -(f(q) - mu_k)^T Sigma'_k^-1 (f(q) - mu_k)
//                       (Bateni et al. 2020, "Improved few-shot visual classification": Simple CNAPS)
//
// Sigma_k is the covariance of class k, Sigma that of the whole support; sums of products are divided by max(1, n - 1)
// and max(1, N - 1). The support is pooled by subset_backprop: by mahalanobis twice, each time with a draw of its own.
#pragma once

#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "loci/models/few_shot_net_options.h"
#include "loci/nn/small/subset_backprop.h"
#include "loci/optim/dense_optimizer.h"

namespace loci {

class FewShotNet : public torch::nn::Module {
 public:
  // Convolutions start as N(0, 2 / inputs) by counter from (seed, name); with mahalanobis FiLM starts as the identity.
  // Throws Error (usage) for impossible options.
  FewShotNet(const FewShotNetOptions& options, uint64_t seed);

  // support [K * n, inputs, height, width], class by class; queries [Q, inputs, height, width] -> logits [Q, K]
  // float32, under autocast too. Without gradients everything is embedded in chunks, and nothing is drawn.
  at::Tensor forward(const at::Tensor& support, const at::Tensor& queries, int64_t ways, const SubsetOptions& subset,
                     RandomSequence& random) const;

  // f of images [B, inputs, height, width] -> [B, C], not bent by a support.
  at::Tensor features(const at::Tensor& images) const;

  const FewShotNetOptions& options() const { return options_; }
  std::vector<NamedParameter> dense_parameters() const;

 private:
  struct Blocks;
  FewShotNetOptions options_;
  std::shared_ptr<Blocks> features_;
  std::shared_ptr<Blocks> encoder_;     // mahalanobis, or null
  at::Tensor film_weight_, film_bias_;  // [2 * blocks * C, E], [2 * blocks * C]
};

// support [K * n, C], class by class; queries [Q, C] -> logits [Q, K].
at::Tensor prototypical_logits(const at::Tensor& support, const at::Tensor& queries, int64_t ways);
at::Tensor mahalanobis_logits(const at::Tensor& support, const at::Tensor& queries, int64_t ways);

}  // namespace loci
