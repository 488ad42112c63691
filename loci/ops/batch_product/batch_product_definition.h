// What the definition of batch_product shares with its CPU path and with tests.
#pragma once

#include <ATen/core/Tensor.h>

namespace loci {

void check_batch_product(const at::Tensor& a, const at::Tensor& b);
at::Tensor batch_product_definition(const at::Tensor& a, const at::Tensor& b, double scale);

}  // namespace loci
