#include "bench/reel_cases.h"

#include <ATen/ops/_fused_sgd.h>
#include <fmt/format.h>
#include <torch/torch.h>

#include "bench/case_size.h"
#include "loci/ops/reels/reels.h"

// Legend: K reels, N weights.

namespace loci::bench {
namespace {

using torch::Tensor;

const ReelSource kSource = {1, 2, 0.05};
constexpr double kRate = 1e-3, kMomentum = 0.9, kDecay = 1e-4;

// Beside it the framework's operators on values that are kept in memory: argmax, gather, a gradient [K, ..], SGD.
struct ReelTensors {
  ReelTensors(int64_t outputs, int64_t inputs, int64_t K)
      : scores(torch::rand({K, outputs, inputs}) * 0.005),
        velocity(torch::zeros_like(scores)),
        grad(torch::randn({outputs, inputs}) * 0.01),
        values(reel_values(grad, K, kSource)) {
    std::tie(weight, choice) = reel_weights(scores, kSource);
  }
  Tensor chosen() const { return values.gather(0, scores.argmax(0, true)).squeeze(0); }
  void framework_step() const {
    at::_fused_sgd_({scores}, {grad.unsqueeze(0) * values}, {velocity}, kDecay, kMomentum, kRate, 0, false, false,
                    false);
  }

  Tensor scores, velocity, grad, values, weight, choice;
};

std::vector<Case> cases_of_layer(int64_t outputs, int64_t inputs, int64_t K) {
  const ReelTensors x(outputs, inputs, K);
  const std::string size = fmt::format("outputs {} inputs {} K {}", outputs, inputs, K);
  const int64_t N = outputs * inputs;
  const double scores = count({4, K, N});
  const auto layer_case = [&](const char* what, double bytes, std::function<void()> fast,
                              std::function<void()> composition) {
    return Case{"reels",
                fmt::format("{} {}", what, size),
                Bound::stream,
                bytes,
                count({2, K, N}),
                std::move(fast),
                std::move(composition)};
  };
  return {layer_case(
              "gather", scores + count({5, N}), [x] { reel_weights(x.scores, kSource); }, [x] { x.chosen(); }),
          layer_case(
              "gradient", scores + count({4, N}), [x, K] { reel_score_gradient(x.grad, x.choice, K, kSource); },
              [x] { (void)(x.grad.unsqueeze(0) * x.values); }),
          // All that a training step does beside the products: the weights, the gradient of the scores, their update.
          layer_case(
              "step", 4 * scores + count({9, N}),
              [x] {
                reel_step(x.scores, x.velocity, x.weight, x.choice, x.grad, kSource,
                          {.rate = kRate, .momentum = kMomentum, .decay = kDecay});
              },
              [x] {
                x.chosen();
                x.framework_step();
              })};
}

}  // namespace

// The first layer of LeNet-300-100, and one of a larger network.
std::vector<Case> reel_cases() {
  std::vector<Case> list;
  for (const int64_t K : {8, 16}) {
    for (Case& one : cases_of_layer(300, 784, K)) list.push_back(std::move(one));
  }
  for (Case& one : cases_of_layer(2048, 2048, 8)) list.push_back(std::move(one));
  return list;
}

}  // namespace loci::bench
