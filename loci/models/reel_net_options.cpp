#include "loci/models/reel_net_options.h"

#include <algorithm>

#include "loci/base/check.h"

namespace loci {
namespace {

constexpr int64_t kMostOutputs = 1 << 14;
constexpr int64_t kMostEdge = 4096;               // of an image
constexpr double kMostScores = int64_t{1} << 40;  // so that their bytes stay far from overflow

}  // namespace

void ReelNetOptions::fields(ConfigFields& f) {
  f.choice<ReelWeights>("weights", weights, "reels: each is one of fixed random values; learned: numbers",
                        {{"reels", ReelWeights::reels}, {"learned", ReelWeights::learned}});
  f.when(of_reels(), "model.weights is \"reels\"", [&] {
    f.field("reels", reels, "values of a weight; 1: a network of fixed random weights",
            {.minimum = 1, .maximum = kMostReels});
    f.choice<ReelChoice>("choice", choice, "greedy: the greatest score; sampled: drawn by their softmax in training",
                         {{"greedy", ReelChoice::greedy}, {"sampled", ReelChoice::sampled}});
    f.choice<ReelGradient>("gradient", gradient, "which scores of a weight get a gradient",
                           {{"all", ReelGradient::all}, {"chosen", ReelGradient::chosen}});
    f.field("spread", spread, "scores of dense layers start from 0 to this times the values' bound",
            {.minimum = 0, .maximum = 1000});
    f.field("spread_convolution", spread_convolution, "the same of convolutions", {.minimum = 0, .maximum = 1000});
  });
  f.field("convolutions", convolutions, "channels of 3x3 convolutions before the hidden layers; none: a plain network",
          {.minimum = 1, .maximum = kMostOutputs});
  f.field("pool_every", pool_every, "a 2x2 max pool follows each so many convolutions", {.minimum = 1, .maximum = 100});
  f.field("hidden", hidden, "outputs of the hidden layers", {.minimum = 1, .maximum = kMostOutputs});
}

void ReelNetOptions::check() const {
  const auto need = [](bool holds, const std::string& expected, const std::string& got) {
    if (!holds) fail(ExitCode::usage, "config", expected, got);
  };
  need(std::ssize(convolutions) <= 100 && std::ssize(hidden) <= 100,
       "model.convolutions and model.hidden must have at most 100 layers",
       fmt::format("{} and {}", convolutions.size(), hidden.size()));
  need(std::max(height, width) <= kMostEdge, fmt::format("images must be at most {0} x {0}", kMostEdge),
       fmt::format("{} x {}", height, width));
  int64_t edge = std::min(height, width);
  for (int64_t pools = std::ssize(convolutions) / pool_every; pools > 0; --pools) edge /= 2;
  need(edge > 0, "model.convolutions must leave a pixel behind the max pools",
       fmt::format("{} pools of images of {} x {}", std::ssize(convolutions) / pool_every, height, width));
  double scores = 0;
  for (const ReelStage& stage : stages()) scores += static_cast<double>(stage.weights() * reels);
  need(scores < kMostScores, "a network must have fewer than 2^40 values", fmt::format("{:.3g}", scores));
}

ReelOptions ReelNetOptions::layer(bool convolution) const {
  return {reels, choice, gradient == ReelGradient::chosen, convolution ? spread_convolution : spread};
}

std::vector<ReelStage> ReelNetOptions::stages() const {
  std::vector<ReelStage> list;
  int64_t inputs = channels, rows = height, columns = width;
  for (size_t i = 0; i < convolutions.size(); ++i) {
    const bool pooled = (static_cast<int64_t>(i) + 1) % pool_every == 0;
    list.push_back({true, inputs, convolutions[i], rows, columns, pooled});
    inputs = convolutions[i];
    if (pooled) rows /= 2, columns /= 2;
  }
  inputs *= rows * columns;
  for (const int64_t outputs : hidden) {
    list.push_back({.inputs = inputs, .outputs = outputs});
    inputs = outputs;
  }
  list.push_back({.inputs = inputs, .outputs = classes, .last = true});
  return list;
}

int64_t ReelNetOptions::parameters() const {
  int64_t count = 0;
  for (const ReelStage& stage : stages()) count += stage.weights();
  return count;
}

int64_t ReelNetOptions::multiply_adds() const {
  int64_t count = 0;
  for (const ReelStage& stage : stages()) count += stage.height * stage.width * stage.weights();
  return count;
}

double ReelNetOptions::kept_numbers() const {
  double numbers = 0;
  for (const ReelStage& stage : stages()) {
    numbers += static_cast<double>(stage.height * stage.width) * static_cast<double>(stage.inputs + 2 * stage.outputs);
  }
  return numbers;
}

}  // namespace loci
