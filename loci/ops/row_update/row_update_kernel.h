// Optimiser updates of one row, on raw pointers. Legend: D width.
#pragma once

#include <stdint.h>

namespace loci {

// The numbers of one row's update. `rate` and `root` hold the bias corrections of its own count t.
template <class Real>
struct RowNumbers {
  Real factor;   // of the gradient
  Real decay;    // 1 - rate * weight_decay
  Real rate;     // adam: rate / (1 - b1^t)
  Real root;     // adam: 1 / sqrt(1 - b2^t)
  Real epsilon;
  Real beta1, rest1;  // b1, 1 - b1
  Real beta2, rest2;
};

template <class Real>
struct RowUpdateKernel {
  void (*adam)(const RowNumbers<Real>& n, int64_t width, const Real* gradient, Real* value, Real* moment1,
               Real* moment2);
  void (*adam_row_moment)(const RowNumbers<Real>& n, int64_t width, const Real* gradient, Real* value, Real* moment1,
                          Real* moment2);
  void (*adagrad)(const RowNumbers<Real>& n, int64_t width, const Real* gradient, Real* value, Real* moment2);
  void (*sgd)(const RowNumbers<Real>& n, int64_t width, const Real* gradient, Real* value);
  double (*square_sum)(int64_t width, const Real* gradient, Real factor);
};

// Rows of bfloat16, as their bits.
struct Bfloat16Kernel {
  void (*read)(int64_t width, const uint16_t* row, float* value);
  // The float32 copy where it rounds to the row, else the row.
  void (*read_master)(int64_t width, const uint16_t* row, const float* master, float* value);
  void (*write_nearest)(int64_t width, const float* value, uint16_t* row);
  void (*write_stochastic)(int64_t width, const float* value, const uint16_t* bits, uint16_t* row);
  // The bits of rounding_bits (row_update_definition.h), many columns at once; room for width + 63 of them.
  void (*rounding_bits)(uint64_t seed, int64_t step, int64_t row, int64_t width, uint16_t* bits);
};

namespace base {
extern const RowUpdateKernel<float> row_update_float;
extern const RowUpdateKernel<double> row_update_double;
extern const Bfloat16Kernel row_bfloat16;
}  // namespace base
namespace avx2 {
extern const RowUpdateKernel<float> row_update_float;
extern const RowUpdateKernel<double> row_update_double;
extern const Bfloat16Kernel row_bfloat16;
}  // namespace avx2
namespace avx512 {
extern const RowUpdateKernel<float> row_update_float;
extern const RowUpdateKernel<double> row_update_double;
extern const Bfloat16Kernel row_bfloat16;
}  // namespace avx512

}  // namespace loci
