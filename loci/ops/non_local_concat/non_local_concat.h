// The concatenation form of non-local networks (Wang et al. 2018, section 3.2), f = relu(w . [theta_i, phi_j]), whose
// logits are sums of one number a query and one a key: a_i = <w_1, theta_i>, b_j = <w_2, phi_j>.
//
// Legend: B batch, N queries, M keys, V width of a value.
//
//   non_local_concat(a [B, N], b [B, M], g [B, M, V]) -> y [B, N, V]
//     y[i] = 1/M * sum over j of max(0, a_i + b_j) g_j = 1/M * (a_i P0 + P1)
//     P0 = sum of g_j, P1 = sum of b_j g_j, both over the keys with b_j > -a_i
//
// float32 and bfloat16 on CPU: keys and queries are sorted, and one walk over both keeps P0 and P1 in float64; N + M
// steps in place of N M, and no N x M matrix. Elsewhere the definition. Gradient: to all inputs, once, by two such
// walks; that of relu at 0 is 0. Same bits for any number of threads and at every level.
#pragma once

#include <ATen/core/Tensor.h>

namespace loci {

at::Tensor non_local_concat(const at::Tensor& a, const at::Tensor& b, const at::Tensor& g);

}  // namespace loci
