// What the definition of usage_add shares with its CPU path, with tests and with the bench.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace loci {

void check_usage_add(const at::Tensor& counters, const at::Tensor& index, const at::Tensor& weight, int64_t window,
                     int64_t step);
void usage_add_definition(const at::Tensor& counters, const at::Tensor& index, const at::Tensor& weight, int64_t window,
                          int64_t step);

}  // namespace loci
