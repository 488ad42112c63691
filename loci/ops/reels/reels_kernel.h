// The loops of reels.h, on raw pointers: n of 0 .. count-1 are the weights first + n of a layer; planes of scores lie
// `stride` apart. The same bits at every level.
//
// Estimate: a value takes about 2.5 AVX-512 instructions (ten rounds for four words), which is less than the time of
// reading its score from memory. A step reads and writes score and velocity: 16 bytes a value.
#pragma once

#include <stdint.h>

namespace loci {

struct ReelNumbers {
  uint64_t seed, stream;
  float bound;
};

struct ReelStepNumbers {
  float rate, momentum, decay, inverse;  // 1 / divisor
  bool nesterov;
};

struct ReelsKernel {
  void (*choose)(const float* scores, int64_t reels, int64_t stride, int64_t count, uint8_t* choice);
  // stream: that of the layer xor the number of the draw.
  void (*draw)(const float* scores, int64_t reels, int64_t stride, uint64_t seed, uint64_t stream, int64_t first,
               int64_t count, uint8_t* choice);
  void (*gather)(const ReelNumbers& numbers, const uint8_t* choice, int64_t first, int64_t count, float* weight);
  // values[k * stride + n]. grad: each is multiplied by that of its weight; null: not. choice: others become 0; null:
  // none does.
  void (*values)(const ReelNumbers& numbers, const float* grad, const uint8_t* choice, int64_t reels, int64_t stride,
                 int64_t first, int64_t count, float* values);
  // velocity: null without momentum; choice: null for every value.
  void (*step)(const ReelNumbers& numbers, const ReelStepNumbers& step, const float* grad, const uint8_t* choice,
               int64_t reels, int64_t stride, int64_t first, int64_t count, float* scores, float* velocity);
};

namespace base {
extern const ReelsKernel reels_kernel;
}
namespace avx2 {
extern const ReelsKernel reels_kernel;
}
namespace avx512 {
extern const ReelsKernel reels_kernel;
}

}  // namespace loci
