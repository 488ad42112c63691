// A linear map of very few rows, as in decoding: reading the weight is all the work, so that its rows are cut over the
// threads. The framework's product of a single row runs on one thread (1024 x 512 in float32: 50 to 63 us; here 34 on
// two threads of a machine that builds shared).
//
// Legend: T rows, d their width, O outputs.
//
//   few_linear(x [T, d], weight [O, d], bias [O]) -> [T, O] = x weight^T + bias
//
// float32 on CPU, for inference: no gradient. The definition is at::linear. Same bits for any thread count, and for a
// row whatever its neighbours. Estimate: 4 O d bytes from the nearest cache that holds them, once for all T.
#pragma once

#include <ATen/core/Tensor.h>

#include "loci/base/cpu_level.h"

namespace loci {

// Rows up to which it is the faster one: from then on the framework's blocked product is.
constexpr int64_t kFewLinearRows = 4;

at::Tensor few_linear(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias,
                      CpuLevel level = cpu_level());

// Whether few_linear may stand for at::linear: few rows, its dtype and device, no gradient wanted, no autocast.
bool few_linear_takes(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias);

}  // namespace loci
