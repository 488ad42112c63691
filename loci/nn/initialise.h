// Starting values of parameters by counter: a value depends on (seed, name, position) alone, so that any thread count
// gives the same numbers. All are float32.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string_view>

namespace loci {

// N(0, std^2); position is the index in row-major order.
at::Tensor normal_start(uint64_t seed, std::string_view name, at::IntArrayRef sizes, double std);
// U(-bound, bound).
at::Tensor uniform_start(uint64_t seed, std::string_view name, at::IntArrayRef sizes, double bound);

}  // namespace loci
