// What a network of signs (binary_net.h) is made of.
//
// Legend: C channels, K inputs, O outputs.
#pragma once

#include <cstdint>
#include <vector>

#include "loci/base/config_fields.h"

namespace loci {

enum class NetWeights { binary, real };
enum class NetNorm { batch, shift };
enum class NetActivations { sign, sampled };

// A product, a max pool or none, a batch norm, and what follows it.
struct BinaryStage {
  bool convolution = false;  // 3x3, with a border of one pixel
  int64_t inputs = 0;        // channels of a convolution; K
  int64_t outputs = 0;
  int64_t height = 1, width = 1;  // of its input map; 1 x 1 without convolution
  bool pooled = false;            // 2x2 max of the products
  bool last = false;              // its norm gives the scores
  int64_t group = 0;              // inputs that begin a word of the packed form: all of a product's, or a pixel's

  int64_t of_output() const { return (convolution ? 9 : 1) * inputs; }  // inputs of one product
  int64_t words() const { return of_output() / group * ((group + 63) / 64); }
  int64_t multiply_adds() const { return height * width * outputs * of_output(); }
};

// [model]
struct BinaryNetOptions {
  NetWeights weights = NetWeights::binary;
  std::vector<int64_t> convolutions = {};  // channels of 3x3 convolutions
  int64_t pool_every = 2;                  // convolutions before each 2x2 max pool
  std::vector<int64_t> hidden = {1024, 1024, 1024};
  NetNorm norm = NetNorm::batch;
  NetActivations activations = NetActivations::sign;  // of binary weights
  bool packed = false;                                // signs in words: written by loci convert --packed
  void fields(ConfigFields& f);

  int64_t channels = 1, height = 28, width = 28, classes = 10;  // no fields: the data's

  // Throws Error (usage) for sizes that do not fit each other.
  void check() const;
  std::vector<BinaryStage> stages() const;
  int64_t parameters() const;
  int64_t multiply_adds() const;  // of an image forward
  double kept_numbers() const;    // of an image that backward keeps
  // Bytes of the signs and thresholds of the packed form, or of the numbers of the other, without running statistics.
  int64_t bytes(bool in_words) const;
};

}  // namespace loci
