// Dropout with the generator of a block's context.
#pragma once

#include <ATen/core/Tensor.h>

#include "loci/nn/block_context.h"

namespace loci {

// In training each element of x is 0 with probability `share`, and what stays is divided by 1 - share. Otherwise x.
at::Tensor dropout(const at::Tensor& x, double share, bool training, const BlockContext& context);

}  // namespace loci
