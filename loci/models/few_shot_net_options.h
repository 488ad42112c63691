// What a network that learns classes from a few examples (few_shot_net.h) is made of.
//
// Legend: C channels of the features, E channels of the set encoder.
#pragma once

#include <cstdint>

#include "loci/base/config_fields.h"

namespace loci {

enum class FewShotHead { prototypical, mahalanobis };

// Blocks of a 3x3 convolution, a group norm, a relu and a 2x2 max pool.
struct ConvolutionBlocks {
  static constexpr int64_t kBlocks = 4;
  int64_t channels = 64;
  int64_t groups = 8;                           // of the norms
  int64_t inputs = 1, height = 28, width = 28;  // of the images

  int64_t parameters() const;
  int64_t multiply_adds() const;  // of an image forward
  double kept_numbers() const;    // of an image that backward keeps
};

// [model]
struct FewShotNetOptions {
  FewShotHead head = FewShotHead::prototypical;
  int64_t channels = 64;          // C
  int64_t groups = 8;             // of the group norms
  int64_t encoder_channels = 16;  // E; mahalanobis alone
  void fields(ConfigFields& f);

  int64_t inputs = 1, height = 28, width = 28;  // no fields: the data's

  // Throws Error (usage) for sizes that do not fit each other.
  void check() const;
  bool adapts() const { return head == FewShotHead::mahalanobis; }
  ConvolutionBlocks features() const { return {channels, groups, inputs, height, width}; }
  ConvolutionBlocks encoder() const { return {encoder_channels, groups, inputs, height, width}; }
  int64_t film_numbers() const { return 2 * ConvolutionBlocks::kBlocks * channels; }

  int64_t parameters() const;
  // Of a task forward, without the head.
  int64_t multiply_adds(int64_t support, int64_t queries) const;
  // That backward keeps of a task whose support carries a gradient in `kept` rows.
  double kept_numbers(int64_t kept, int64_t queries) const;
};

}  // namespace loci
