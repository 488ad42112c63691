// Transposes four rows of four floats. For kernel files alone.
#pragma once

#include <stdint.h>

namespace loci::LOCI_LEVEL {
namespace {

typedef float Float4 __attribute__((vector_size(16)));

// to[j * to_stride + i] = from[i][j].
void transpose_four(const float* const (&from)[4], float* to, int64_t to_stride) {
  Float4 row[4];
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) __builtin_memcpy(&row[i], from[i], sizeof row[i]);
  const Float4 a = __builtin_shufflevector(row[0], row[1], 0, 4, 1, 5);
  const Float4 b = __builtin_shufflevector(row[2], row[3], 0, 4, 1, 5);
  const Float4 c = __builtin_shufflevector(row[0], row[1], 2, 6, 3, 7);
  const Float4 d = __builtin_shufflevector(row[2], row[3], 2, 6, 3, 7);
  const Float4 column[4] = {__builtin_shufflevector(a, b, 0, 1, 4, 5), __builtin_shufflevector(a, b, 2, 3, 6, 7),
                            __builtin_shufflevector(c, d, 0, 1, 4, 5), __builtin_shufflevector(c, d, 2, 3, 6, 7)};
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) __builtin_memcpy(to + j * to_stride, &column[j], sizeof column[j]);
}

}  // namespace
}  // namespace loci::LOCI_LEVEL
