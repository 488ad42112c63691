// What the definition of product_key_select shares with its CPU path, with the search and with tests.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/SymInt.h>

#include <tuple>

namespace loci {

void check_top_k(const char* who, int64_t top_k, int64_t addresses, c10::SymInt n1, c10::SymInt n2);
void check_product_key_select(const at::Tensor& score1, const at::Tensor& score2, int64_t top_k, int64_t addresses);

std::tuple<at::Tensor, at::Tensor> product_key_select_definition(const at::Tensor& score1, const at::Tensor& score2,
                                                                 int64_t top_k, int64_t addresses);

}  // namespace loci
