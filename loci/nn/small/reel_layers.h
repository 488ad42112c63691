// Layers whose weights are each one of K fixed random values, chosen by scores (Aladago and Torresani 2021, "Slot
// machines: discovering winning combinations of random weights in neural networks", arXiv 2101.06475). Training moves
// the scores; the values are made again from a seed wherever they are needed (loci/ops/reels).
//
// Legend: B batch, C channels, K reels (values of a weight).
//
//   value    U(-sigma, sigma), sigma = sqrt(2 / (fan_in + fan_out))
//   scores   start as U(0, spread * sigma)
//   forward  a weight is the value of its greatest score (greedy), or of a reel drawn by the softmax of its scores
//            (sampled, in training alone)
//   backward d score[k] = (dL/dweight) value[k] for every k; with `chosen_only`, a control, for the chosen k
//
// With K = 1 a layer is one of fixed random weights, which training does not change. There is no bias.
#pragma once

#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>
#include <torch/nn/modules/conv.h>
#include <torch/nn/modules/linear.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "loci/ops/reels/reels.h"
#include "loci/optim/dense_optimizer.h"

namespace loci {

enum class ReelChoice { greedy, sampled };

struct ReelOptions {
  int64_t reels = 8;
  ReelChoice choice = ReelChoice::greedy;
  bool chosen_only = false;
  double spread = 0.1;  // lambda: 0.1 for dense layers, 1 for convolutions
};

// A tensor of weights. It is held by a shared pointer.
class ReelWeight : public torch::nn::Module {
 public:
  // sizes: [outputs, inputs, ..]. Values and the start of the scores depend on (seed, name) alone.
  ReelWeight(const std::string& name, const std::vector<int64_t>& sizes, const ReelOptions& options, uint64_t seed);

  // The weights [outputs, inputs, ..]. Any optimiser may train `scores`.
  at::Tensor forward();
  // In place of that: a parameter whose update by SGD makes no gradient of scores [K, ..], but moves all scores and
  // chooses the next weights in one pass. From then on gradients reach the parameter and not the scores. Norms and
  // clipping of gradients are those of the weights.
  NamedParameter parameter(const std::string& name);

  at::Tensor found() const;                    // the weights of the greatest scores, without gradient
  at::Tensor values() const;                   // [K, outputs, inputs, ..]
  double moved() const;                        // share of weights whose greatest score is not that of the start
  ReelSource source() const;                   // of the seed that came with the scores
  static double bound(at::IntArrayRef sizes);  // sigma
  int64_t reels() const { return options_.reels; }

  at::Tensor scores;  // [K, outputs, inputs, ..]
  at::Tensor key;     // [2] int64: seed and stream of the values, a buffer
  at::Tensor draws;   // [1] int64: how many were made, a buffer; sampled

 private:
  bool sampling() const { return options_.choice == ReelChoice::sampled && is_training(); }
  at::Tensor start_scores() const;
  int64_t next_draw();
  const at::Tensor& held_weights();
  void update(const at::Tensor& gradient, const at::Tensor& velocity, const SgdUpdate& by);

  std::string name_;
  ReelOptions options_;
  at::Tensor held_, choice_;  // of parameter(): the weights [..] of the scores at `version_`
  int64_t version_ = -1;
  bool drawn_ = false;  // held_ was sampled
};

class ReelLinear : public torch::nn::Module {
 public:
  ReelLinear(const std::string& name, int64_t inputs, int64_t outputs, const ReelOptions& options, uint64_t seed);
  at::Tensor forward(const at::Tensor& x);  // [.., inputs] -> [.., outputs]
  torch::nn::Linear freeze() const;         // a plain layer with the same bits, to use or to train on

  std::shared_ptr<ReelWeight> weight;
};

// Stride 1, kernels of an odd edge, a border of edge / 2 zeros.
class ReelConv2d : public torch::nn::Module {
 public:
  ReelConv2d(const std::string& name, int64_t channels, int64_t outputs, int64_t edge, const ReelOptions& options,
             uint64_t seed);
  at::Tensor forward(const at::Tensor& x);  // [B, C, height, width] -> [B, outputs, height, width]
  torch::nn::Conv2d freeze() const;

  std::shared_ptr<ReelWeight> weight;
};

}  // namespace loci
