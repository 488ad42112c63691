// What the definition of product_key_search shares with its CPU path and with tests.
#pragma once

#include <ATen/core/Tensor.h>

#include <array>
#include <tuple>

namespace loci {

at::ScalarType search_score_dtype(at::ScalarType query);

void check_product_key_search(const at::Tensor& query, const at::Tensor& keys1, const at::Tensor& keys2, int64_t top_k,
                              int64_t addresses);
void check_product_key_search_backward(const at::Tensor& grad_score, const at::Tensor& index, const at::Tensor& query,
                                       const at::Tensor& keys1, const at::Tensor& keys2);

std::tuple<at::Tensor, at::Tensor> product_key_search_definition(const at::Tensor& query, const at::Tensor& keys1,
                                                                 const at::Tensor& keys2, int64_t top_k,
                                                                 int64_t addresses);
std::tuple<at::Tensor, at::Tensor, at::Tensor> search_backward_definition(
    const at::Tensor& grad_score, const at::Tensor& index, const at::Tensor& query, const at::Tensor& keys1,
    const at::Tensor& keys2, std::array<bool, 3> needed = {true, true, true});

}  // namespace loci
