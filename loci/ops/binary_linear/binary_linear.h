// Matrix products of signs, 64 in a word, and layers that go from signs to signs (Courbariaux, Hubara et al. 2016,
// "Binarized neural networks", arXiv 1602.02830).
//
// Legend: T vectors, K inputs, O outputs, w = ceil(K / 64) words of K signs.
//
//   sign_pack(x [.., K]) -> bits [.., w] int64
//     bit k % 64 of word k / 64 is 1 where the sign of x[k] is -1: where x[k] >= 0 does not hold (-0 is +1, NaN is -1);
//     the bits behind the K-th are 0
//
//   binary_linear(a [T, w], b [O, w], K) -> y [T, O] int32
//     y[t, o] = sum over k of sign a[t, k] * sign b[o, k] = K - 2 * popcount(a[t] xor b[o])
//
//   binary_threshold(y [T, O] int32, threshold [O] int32, turned [ceil(O / 64)] int64) -> bits [T, ceil(O / 64)] int64
//     the sign of output o is +1 where y[o] >= threshold[o], and the other one where bit o of `turned` is 1
//
//   binary_layer(a, b, K, threshold, turned) = binary_threshold(binary_linear(a, b, K), threshold, turned)
//
// Bits of a and b behind the K-th must be 0. x: any floating type. All results are integers and exact: the same on
// every device and level, for any number of threads. float32 and the products have a path of their own on CPU;
// everything else is the definition, which unpacks the signs. No gradient.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace loci {

at::Tensor sign_pack(const at::Tensor& x);
at::Tensor binary_linear(const at::Tensor& a, const at::Tensor& b, int64_t inputs);
at::Tensor binary_threshold(const at::Tensor& y, const at::Tensor& threshold, const at::Tensor& turned);
at::Tensor binary_layer(const at::Tensor& a, const at::Tensor& b, int64_t inputs, const at::Tensor& threshold,
                        const at::Tensor& turned);

// The signs of `bits` [.., w] as numbers +1 and -1 [.., K] of a floating type.
at::Tensor sign_unpack(const at::Tensor& bits, int64_t inputs, at::ScalarType type = at::kFloat);

}  // namespace loci
