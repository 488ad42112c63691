// Weights that are each one of K fixed random values, chosen by scores (Aladago and Torresani 2021, "Slot machines:
// discovering winning combinations of random weights in neural networks", arXiv 2101.06475). Values are never stored.
//
// Legend: K reels (values of a weight), N weights, .. their sizes.
//
//   value[k, n] = b * u of (-b, b), b = bound
//     word = word k % 4 of the block of CounterRandom(seed, stream) at the position (k / 4) << 40 | n
//     u = (floor(word / 2^7 as int32) | 1) / 2^24: uniform, as likely negative as positive, never 0
//     It depends on (seed, stream, k, n) alone: K and N may change, any part may be made alone.
//
//   reel_values(like [..], reels, source) -> value [K, ..] float32, on the device of `like`
//
//   reel_weights(scores [K, ..], source, draw, chosen_only) -> weight [..], choice [..] uint8
//     choice[n] = argmax over k of scores[k, n], the first of equal ones, and never a NaN         draw < 0
//               = k with probability softmax(scores[:, n])[k]: the first k whose share of the     draw >= 0
//                 cumulated exp(scores - max), in double, exceeds u[n] of (seed, stream, draw)
//     weight[n] = value[choice[n], n]
//     backward: d scores[k, n] = d weight[n] * value[k, n] for every k; chosen_only: for k = choice[n], else 0
//
//   reel_score_gradient(grad [..], choice [..], reels, source, chosen_only) -> d scores [K, ..]
//
//   reel_step_(scores [K, ..], velocity [K, ..], weight [..], choice [..], grad [..], source, step)
//     One update by SGD of all scores, in one pass without their gradient [K, ..]:
//       g = grad * (1 / divisor) * value + decay * scores                     (chosen_only: as above)
//       velocity = momentum * velocity + g;  scores -= rate * (nesterov ? g + momentum * velocity : velocity)
//     and then, with `choose`, weight and choice of the new scores (draw < 0). No velocity: momentum is 0.
//
// K is 1 to 256, N below 2^40; scores, grad and velocity are of one floating type. float32 has a path of its own on
// CPU, with the same bits at every level and for any number of threads, which are those of the definition; that writes
// contiguous tensors. The layers are in loci/nn/small/reel_layers.h.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <tuple>

namespace loci {

// Where values come from: seed, stream (of a layer's name: stream_of) and the bound of their size.
struct ReelSource {
  uint64_t seed = 0;
  uint64_t stream = 0;
  double bound = 1;
};

struct ReelStep {
  double rate = 0;
  double momentum = 0;
  double decay = 0;
  double divisor = 1;
  bool nesterov = false;
  bool chosen_only = false;
  bool choose = true;
};

constexpr int64_t kMostReels = 256;

at::Tensor reel_values(const at::Tensor& like, int64_t reels, const ReelSource& source);
std::tuple<at::Tensor, at::Tensor> reel_weights(const at::Tensor& scores, const ReelSource& source, int64_t draw = -1,
                                                bool chosen_only = false);
at::Tensor reel_score_gradient(const at::Tensor& grad, const at::Tensor& choice, int64_t reels,
                               const ReelSource& source, bool chosen_only = false);
void reel_step(const at::Tensor& scores, const at::Tensor& velocity, const at::Tensor& weight, const at::Tensor& choice,
               const at::Tensor& grad, const ReelSource& source, const ReelStep& step);

}  // namespace loci
