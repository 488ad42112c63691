// What a network of reels (reel_net.h) is made of.
#pragma once

#include <cstdint>
#include <vector>

#include "loci/base/config_fields.h"
#include "loci/nn/small/reel_layers.h"

namespace loci {

enum class ReelWeights { reels, learned };
enum class ReelGradient { all, chosen };

// A product, relu unless it is the last, a max pool or none.
struct ReelStage {
  bool convolution = false;  // 3x3, with a border of one pixel
  int64_t inputs = 0;        // channels of a convolution
  int64_t outputs = 0;
  int64_t height = 1, width = 1;  // of its input map; 1 x 1 without convolution
  bool pooled = false;            // 2x2 max
  bool last = false;              // its products are the scores

  std::vector<int64_t> sizes() const {
    return convolution ? std::vector<int64_t>{outputs, inputs, 3, 3} : std::vector<int64_t>{outputs, inputs};
  }
  int64_t weights() const { return (convolution ? 9 : 1) * inputs * outputs; }
};

// [model]
struct ReelNetOptions {
  ReelWeights weights = ReelWeights::reels;
  int64_t reels = 8;
  ReelChoice choice = ReelChoice::greedy;
  ReelGradient gradient = ReelGradient::all;
  double spread = 0.1, spread_convolution = 1;  // of the scores at the start, by sigma
  std::vector<int64_t> convolutions = {};       // channels of 3x3 convolutions
  int64_t pool_every = 2;                       // convolutions before each 2x2 max pool
  std::vector<int64_t> hidden = {300, 100};
  void fields(ConfigFields& f);

  int64_t channels = 1, height = 28, width = 28, classes = 10;  // no fields: the data's

  // Throws Error (usage) for sizes that do not fit each other.
  void check() const;
  bool of_reels() const { return weights == ReelWeights::reels; }
  ReelOptions layer(bool convolution) const;
  std::vector<ReelStage> stages() const;
  int64_t parameters() const;     // weights, each counted once
  int64_t multiply_adds() const;  // of an image forward
  double kept_numbers() const;    // of an image that backward keeps
};

}  // namespace loci
