// Tensors on anonymous pages of the system: zero at first, and a page takes no memory until it is written.
#pragma once

#include <ATen/core/Tensor.h>

#include <string_view>

namespace loci {

enum class PageSize {
  huge,   // 2 MiB where the system grants them: for what is read at random
  small,  // for what is written in few places, such as the optimiser state of rows
};

// [rows, width] (or [rows] for width 0), zero. Throws Error (resources), before anything is touched, when the system
// does not have that much memory.
at::Tensor zero_pages(std::string_view who, int64_t rows, int64_t width, at::ScalarType dtype, PageSize page);

// Makes a tensor of zero_pages zero again by giving its pages back.
void return_pages(const at::Tensor& tensor);

}  // namespace loci
