// What product_key_search and its gradients accept; called by the definitions and the CPU entries.
#pragma once

#include <ATen/core/Tensor.h>

namespace loci {

at::ScalarType search_score_dtype(at::ScalarType query);

void check_product_key_search(const at::Tensor& query, const at::Tensor& keys1, const at::Tensor& keys2, int64_t top_k,
                              int64_t addresses);
void check_search_backward_query(const at::Tensor& grad_score, const at::Tensor& index, const at::Tensor& keys1,
                                 const at::Tensor& keys2);
void check_search_backward_keys(const at::Tensor& grad_score, const at::Tensor& index, const at::Tensor& query);

}  // namespace loci
