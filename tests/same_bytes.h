// For tests: tensors compared by their bytes, which may be those of NaN.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstring>

namespace loci {

inline bool same_bytes(const at::Tensor& a, const at::Tensor& b) {
  return a.sizes() == b.sizes() &&
         (a.numel() == 0 || std::memcmp(a.const_data_ptr(), b.const_data_ptr(), a.nbytes()) == 0);
}

}  // namespace loci
