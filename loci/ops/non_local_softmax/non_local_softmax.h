// The Gaussian forms of non-local networks (Wang et al. 2018, section 3.2): every query averages all values, weighted
// by a softmax over the keys. `gaussian`: theta = phi = x; `embedded`: theta and phi are embeddings of x.
//
// Legend: B batch, N queries, M keys, I inner width, V width of a value.
//
//   non_local_softmax(theta [B, N, I], phi [B, M, I], g [B, M, V], scale) -> y [B, N, V]
//     y[b, i] = sum over j of p_ij g[b, j],   p_i = softmax over j of scale * <theta[b, i], phi[b, j]>
//
// float32 and bfloat16 on CPU: blocks of queries against all keys, so that no N x M matrix exists, forward or backward
// (which computes p again: 7 products of matrices in place of 6, but in the cache). Elsewhere the definition. Gradient:
// to all inputs, once. Same bits for any number of threads.
#pragma once

#include <ATen/core/Tensor.h>

namespace loci {

at::Tensor non_local_softmax(const at::Tensor& theta, const at::Tensor& phi, const at::Tensor& g, double scale = 1);

}  // namespace loci
