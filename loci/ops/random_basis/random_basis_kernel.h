// Random directions made and used in registers (random_basis.h), on raw pointers.
//
// Estimate for 256 numbers: Philox 4x32-10 for 16 counters takes 13 instructions a round of 16 lanes (4 wide products,
// 2 shifts, 4 blends, 2 xors, a key), 130 in all; 4 times 6 for the two table look-ups; 16 times 5 for byte to float32,
// product and sum: 234, a little less than one a number with 16 lanes and two with 8. Bytes: 4 of gradient a number,
// from the nearest cache; nothing else. d 250, n 101,770 is 25.4 million numbers for the dot and as many for the sum.
#pragma once

#include <stdint.h>

namespace loci {

struct RandomBasisStream {
  uint32_t key0, key1, compartment, step;
  const int8_t *low, *high;  // 16 values each
};

struct RandomBasisKernel {
  static constexpr int64_t kGroup = 256;  // numbers of 16 counters
  static constexpr int64_t kLanes = 64;   // sums of a dot

  // sums[k % 64] += v_k * gradient[k], k ascending, for `groups` groups of a direction from group `first` on.
  void (*dot)(const RandomBasisStream& stream, uint32_t direction, uint32_t first, int64_t groups,
              const float* gradient, float* sums);
  // total[e] = sum over i of coefficients[i] * v_e of direction first + i, i ascending, for the 256 numbers of a group.
  void (*add)(const RandomBasisStream& stream, uint32_t first, int64_t directions, const float* coefficients,
              uint32_t group, float* total);
};

namespace base {
extern const RandomBasisKernel random_basis_kernel;
}
namespace avx2 {
extern const RandomBasisKernel random_basis_kernel;
}
namespace avx512 {
extern const RandomBasisKernel random_basis_kernel;
}

}  // namespace loci
