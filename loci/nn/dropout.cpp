#include "loci/nn/dropout.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/empty_like.h>

namespace loci {

at::Tensor dropout(const at::Tensor& x, double share, bool training, const BlockContext& context) {
  if (share == 0 || !training) return x;
  return x * at::empty_like(x).bernoulli_(1 - share, context.generator).div_(1 - share);
}

}  // namespace loci
