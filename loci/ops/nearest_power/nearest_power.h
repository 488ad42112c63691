// The nearest power of two: a product with it is a shift (Courbariaux, Hubara et al. 2016, "Binarized neural networks",
// arXiv 1602.02830, there AP2).
//
//   nearest_power(x [..]) -> y [..]
//     y = sign(x) * 2^round(log2 |x|): the exponent is rounded up from |x| = 2^(e + 1/2) on
//     0, infinity and NaN stay what they are; below the least normal number y is 0 or that number
//     backward: grad, as if y were x
//
// x: float32 or float64. By the bits of the numbers: exact, and the same for any number of threads.
#pragma once

#include <ATen/core/Tensor.h>

namespace loci {

at::Tensor nearest_power(const at::Tensor& x);

double nearest_power(double x);

}  // namespace loci
