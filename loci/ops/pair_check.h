// What the pairwise operators of non-local networks expect of their arguments.
//
// Legend: B batch, N queries, M keys, I inner width, V width of a value.
#pragma once

#include <ATen/core/Tensor.h>

namespace loci {

// theta [B, N, I], phi [B, M, I] with M >= 1, g [B, M, V]: one floating type, one device. Throws c10::Error.
void check_pairs(const char* who, const at::Tensor& theta, const at::Tensor& phi, const at::Tensor& g);

// grad [B, N, V] of the first input's type, where that is [B, N, ..] and g [B, M, V]. Throws c10::Error.
void check_pair_gradient(const char* who, const at::Tensor& grad, const char* first_name, const at::Tensor& first,
                         const at::Tensor& g);

// `other` of the type and on the device of `first`. Throws c10::Error.
void check_pair_type(const char* who, const char* name, const at::Tensor& other, const char* first_name,
                     const at::Tensor& first);

}  // namespace loci
