// The definition of non_local_dot, for tests and the bench: as the formula stands, by at::bmm: (theta phi^T) g.
#pragma once

#include <ATen/core/Tensor.h>

namespace loci {

at::Tensor non_local_dot_definition(const at::Tensor& theta, const at::Tensor& phi, const at::Tensor& g);

}  // namespace loci
