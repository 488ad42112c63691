// Signs whose gradient is another function's, because their own is 0 almost everywhere (Bengio, Leonard and Courville
// 2013, "Estimating or propagating gradients through stochastic neurons"; Courbariaux, Hubara et al. 2016, "Binarized
// neural networks", arXiv 1602.02830, equations 1 to 4).
//
//   straight_through_sign(x [..], whole) -> y [..]
//     y = +1 where x >= 0, else -1 (-0 gives +1, NaN gives -1)
//     backward: grad * 1[|x| <= 1], that of clip(x, -1, 1); whole: grad
//
//   sampled_sign(x [..], key [2] int64, first [1] int64) -> y [..]
//     y[i] = +1 where u_i < clip((x[i] + 1) / 2, 0, 1), else -1 (NaN gives -1); i numbers x in row-major order
//     u_i in [0, 1) is the number at position first + i of the counter (seed key[0], stream key[1]), base/random.h
//     backward: grad * 1[|x| <= 1]
//
// y has the type of x, any floating one; comparisons of sampled_sign are made in float64. Same bits for any number of
// threads.
#pragma once

#include <ATen/core/Tensor.h>

namespace loci {

// What reaches x through its sign.
enum class SignGradient {
  within_one,  // grad * 1[|x| <= 1]
  whole,       // grad: for weights that are clipped to [-1, 1] after each update
};

at::Tensor straight_through_sign(const at::Tensor& x, SignGradient gradient = SignGradient::within_one);

at::Tensor sampled_sign(const at::Tensor& x, const at::Tensor& key, const at::Tensor& first);

}  // namespace loci
