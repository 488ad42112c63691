// The Gaussian forms of non-local networks (Wang et al. 2018, section 3.2): every query averages all values, weighted
// by a softmax over the keys. `gaussian`: theta = phi = x; `embedded`: theta and phi are embeddings of x.
//
// Legend: B batch, N queries, M keys, I inner width, V width of a value.
//
//   non_local_softmax(theta [B, N, I], phi [B, M, I], g [B, M, V], scale) -> y [B, N, V]
//     y[b, i] = sum over j of p_ij g[b, j],   p_i = softmax over j of scale * <theta[b, i], phi[b, j]>
//
// Where the N x M weights are more numbers than the inputs and their gradients together (large maps), float32 and
// bfloat16 on CPU take blocks of queries against all keys, so that no N x M matrix exists, forward or backward (which
// computes the weights again: 7 products of matrices in place of 6, but in the cache). Gradient: to all inputs, once.
// Same bits for any number of threads.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace loci {

at::Tensor non_local_softmax(const at::Tensor& theta, const at::Tensor& phi, const at::Tensor& g, double scale = 1);

// Whether the weights are kept for the gradient: they are no more numbers than the inputs and their gradients.
bool keeps_weights(int64_t N, int64_t M, int64_t I, int64_t V);

}  // namespace loci
