// What product_key_select and product_key_search accept; called by their definitions and their CPU entries.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/SymInt.h>

namespace loci {

void check_top_k(const char* who, int64_t top_k, int64_t addresses, c10::SymInt n1, c10::SymInt n2);
void check_product_key_select(const at::Tensor& score1, const at::Tensor& score2, int64_t top_k, int64_t addresses);

}  // namespace loci
