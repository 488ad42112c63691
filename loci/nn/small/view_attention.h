// One vector of a thing from several views of it, some of which are missing or worthless: attention over those that are
// there. It implements the idea of the abstract of Barkan et al. 2020 ("Neural Attentive Multiview Machines", ICASSP);
// the formulas are ours.
//
// Legend: B batch, V views, D width of a view, A width of the scores' hidden layer.
//
//   alpha = softmax over the present k of v . tanh(W u_k + b)       [B, V]; 0 for absent ones
//   u     = sum over k of alpha_k u_k, or `default_view` where no view is present
//   out   = u / |u|                                                 [B, D]
//
// The order of the views plays no part. What stands in an absent view plays none either, NaN included: it is replaced
// by zeros before anything is computed, so that the result has the same bits, and it gets no gradient.
#pragma once

#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

namespace loci {

class ViewAttention : public torch::nn::Module {
 public:
  // Weights start as N(0, 1 / inputs), the default view as N(0, 1 / D), by counter from (seed, name).
  ViewAttention(const std::string& name, int64_t width, int64_t hidden, uint64_t seed);

  // views [B, V, D] of a floating type; mask [B, V] bool, true where a view is present, or undefined for all present
  // -> [B, D] in the type of views.
  at::Tensor forward(const at::Tensor& views, const at::Tensor& mask = {}) const;
  // That, and alpha [B, V].
  std::pair<at::Tensor, at::Tensor> forward_with_weights(const at::Tensor& views, const at::Tensor& mask = {}) const;

  at::Tensor inner_weight, inner_bias;  // W [A, D], b [A]
  at::Tensor score_weight;              // v [1, A]
  at::Tensor default_view;              // [D]
};

// views [B, V, D], weight [B, V], mask [B, V], default_view [D] -> [B, D]: the sum over k of weight_k u_k, or the
// default where no view is present, at length 1 (below 1e-6, divided by 1e-6). Absent views must be zeros.
at::Tensor unit_sum(const at::Tensor& views, const at::Tensor& weight, const at::Tensor& mask,
                    const at::Tensor& default_view);

// View dropout: mask [B, V] without the views that are left out in training. Each is, with probability `share`, by
// counter from (seed, stream, first + its place in row-major order), so that a batch may be cut anywhere. All views of
// a thing may go: that is what trains the default view.
at::Tensor drop_views(const at::Tensor& mask, double share, uint64_t seed, std::string_view stream, int64_t first);

// How well two vectors belong together: gain * <a, b> + bias, to be trained by a logistic loss. The gain starts at
// `gain`, the bias at 0.
class PairScore : public torch::nn::Module {
 public:
  explicit PairScore(double gain = 5);

  at::Tensor forward(const at::Tensor& a, const at::Tensor& b) const;    // [.., D] and [.., D] -> [..]
  at::Tensor all_pairs(const at::Tensor& a, const at::Tensor& b) const;  // [M, D] and [N, D] -> [M, N]

  at::Tensor gain, bias;  // [1]
};

}  // namespace loci
