#include "loci/models/binary_net_options.h"

#include <algorithm>

#include "loci/base/check.h"

namespace loci {
namespace {

constexpr int64_t kMostWidth = 1 << 14;
constexpr int64_t kMostSide = 4096;  // of an image; with the widths, so that counts stay far from overflow
// So that sums of signs, and in the first layer of whole numbers up to 255, are exact in float32.
constexpr int64_t kMostInputs = int64_t{1} << 24, kMostFirstInputs = kMostInputs / 255;

}  // namespace

void BinaryNetOptions::fields(ConfigFields& f) {
  f.choice<NetWeights>("weights", weights, "binary: weights and activations are signs; real: numbers and relu",
                       {{"binary", NetWeights::binary}, {"real", NetWeights::real}});
  f.field("convolutions", convolutions, "channels of 3x3 convolutions before the hidden layers; none: a plain network",
          {.minimum = 1, .maximum = kMostWidth});
  f.field("pool_every", pool_every, "a 2x2 max pool follows each so many convolutions", {.minimum = 1, .maximum = 100});
  f.field("hidden", hidden, "outputs of the hidden layers", {.minimum = 1, .maximum = kMostWidth});
  f.choice("norm", norm, "batch norm behind each product, or one whose factors are rounded to powers of two",
           {{"batch", NetNorm::batch}, {"shift", NetNorm::shift}});
  f.when(weights == NetWeights::binary, "model.weights is \"binary\"", [&] {
    f.choice("activations", activations, "signs in training, or +1 drawn with chance clip((x + 1) / 2, 0, 1)",
             {{"sign", NetActivations::sign}, {"sampled", NetActivations::sampled}});
  });
  f.field("packed", packed, "signs in words, to use without training; written by loci convert --packed");
}

void BinaryNetOptions::check() const {
  const auto need = [](bool holds, const std::string& expected, const std::string& got) {
    if (!holds) fail(ExitCode::usage, "config", expected, got);
  };
  need(std::ssize(convolutions) <= 100 && std::ssize(hidden) <= 100,
       "model.convolutions and model.hidden must have at most 100 layers",
       fmt::format("{} and {}", convolutions.size(), hidden.size()));
  need(!packed || weights == NetWeights::binary, "model.weights must be \"binary\" where model.packed is true",
       "\"real\"");
  need(std::max(height, width) <= kMostSide, fmt::format("images must be at most {0} x {0}", kMostSide),
       fmt::format("{} x {}", height, width));
  int64_t edge = std::min(height, width);
  for (int64_t pools = std::ssize(convolutions) / pool_every; pools > 0; --pools) edge /= 2;
  need(edge > 0, "model.convolutions must leave a pixel behind the max pools",
       fmt::format("{} pools of images of {} x {}", std::ssize(convolutions) / pool_every, height, width));
  for (int64_t most = kMostFirstInputs; const BinaryStage& stage : stages()) {
    need(stage.of_output() <= most, fmt::format("the sums of a layer must have at most {} inputs", most),
         fmt::to_string(stage.of_output()));
    most = kMostInputs;
  }
}

std::vector<BinaryStage> BinaryNetOptions::stages() const {
  std::vector<BinaryStage> list;
  int64_t inputs = channels, rows = height, columns = width;
  // The first stage reads numbers, and the others signs: of a map those of each pixel begin a word.
  const auto add = [&](BinaryStage stage) {
    const bool behind_map = !list.empty() && list.back().convolution;
    stage.group = behind_map ? list.back().outputs : stage.of_output();
    list.push_back(stage);
    inputs = stage.outputs;
  };
  for (size_t i = 0; i < convolutions.size(); ++i) {
    const bool pooled = (static_cast<int64_t>(i) + 1) % pool_every == 0;
    add({true, inputs, convolutions[i], rows, columns, pooled});
    if (pooled) rows /= 2, columns /= 2;
  }
  inputs *= rows * columns;
  for (const int64_t outputs : hidden) add({.inputs = inputs, .outputs = outputs});
  add({.inputs = inputs, .outputs = classes, .last = true});
  return list;
}

int64_t BinaryNetOptions::parameters() const {
  int64_t count = 0;
  for (const BinaryStage& stage : stages()) count += stage.outputs * (stage.of_output() + 2);
  return count;
}

int64_t BinaryNetOptions::multiply_adds() const {
  int64_t count = 0;
  for (const BinaryStage& stage : stages()) count += stage.multiply_adds();
  return count;
}

double BinaryNetOptions::kept_numbers() const {
  double numbers = 0;
  for (const BinaryStage& stage : stages()) {
    // The bordered input, the product, its norm; of one by shifts what its formula makes on the way.
    numbers += static_cast<double>((stage.height + 2) * (stage.width + 2) * stage.inputs) +
               (norm == NetNorm::shift ? 7 : 3) * static_cast<double>(stage.height * stage.width * stage.outputs);
  }
  return numbers;
}

int64_t BinaryNetOptions::bytes(bool in_words) const {
  int64_t count = 0;
  for (const BinaryStage& stage : stages()) {
    const int64_t of_norm = stage.last ? 12 * stage.outputs : 4 * stage.outputs + 8 * ((stage.outputs + 63) / 64);
    count += in_words ? 8 * stage.outputs * stage.words() + of_norm : 4 * stage.outputs * (stage.of_output() + 2);
  }
  return count;
}

}  // namespace loci
