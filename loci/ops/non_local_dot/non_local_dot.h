// The dot-product form of non-local networks (Wang et al. 2018, section 3.2): every query sums all values, each
// weighted with the product of query and key.
//
// Legend: B batch, N queries, M keys, I inner width, V width of a value.
//
//   non_local_dot(theta [B, N, I], phi [B, M, I], g [B, M, V]) -> y [B, N, V]
//     y[b, i] = 1/M * sum over j of <theta[b, i], phi[b, j]> g[b, j]
//
// The products are taken in the order with fewer multiply-adds: (theta phi^T) g costs N M (I + V), theta (phi^T g)
// costs (N + M) I V. The gradient costs twice the forward pass in either order, so one rule serves both. Where the
// first order is the cheaper one, its N x M numbers are fewer than those of theta and phi. Gradient: to all inputs,
// once. Same bits for any number of threads.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace loci {

at::Tensor non_local_dot(const at::Tensor& theta, const at::Tensor& phi, const at::Tensor& g);

// Whether theta (phi^T g) is the cheaper order.
bool associates(int64_t N, int64_t M, int64_t I, int64_t V);

}  // namespace loci
