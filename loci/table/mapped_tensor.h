// Tensors whose pages are those of a safetensors file, so that they may be larger than memory.
#pragma once

#include <ATen/core/Tensor.h>

#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "loci/table/page_fetch.h"
#include "loci/table/safetensors.h"

namespace loci {

// A tensor in a file of its own, zero at first, whose writes go to the file: for training. All of its disk is allocated
// at once, so that a full disk is an Error (resources) here and not a signal later. `file` is replaced, and stays when
// the tensor goes.
class OwnFileTensor {
 public:
  OwnFileTensor(std::filesystem::path file, const std::string& name, const std::vector<int64_t>& shape,
                at::ScalarType dtype);
  const at::Tensor& tensor() const { return tensor_; }
  void clear();  // zero again, without giving disk back; writes nothing where the file system can do so
  FetchCounts fetch(std::span<const int64_t> row, PageUse use) const;  // fetch_rows()

 private:
  struct Mapping;
  std::filesystem::path file_;
  std::shared_ptr<Mapping> mapping_;  // the tensor holds it too
  at::Tensor tensor_;
};

// A tensor of a complete file, for reading: all processes that map the file share its pages. What is written after
// allow_writes() stays in this process. The file must keep its size.
class PrivateFileTensor {
 public:
  // Throws Error (input) when the file does not hold `name`, or holds it misaligned.
  PrivateFileTensor(const std::filesystem::path& file, const std::string& name);
  const at::Tensor& tensor() const { return tensor_; }
  void allow_writes(const int64_t* row, int64_t count);   // to these rows
  FetchCounts fetch(std::span<const int64_t> row) const;  // fetch_rows()

 private:
  std::filesystem::path file_;
  std::shared_ptr<const int> descriptor_;
  std::byte* begin_ = nullptr;  // of the mapping, the file's first byte
  int64_t length_ = 0;
  int64_t piece_ = 0;           // bytes that become writable together
  std::vector<bool> writable_;  // by piece
  at::Tensor tensor_;
};

at::ScalarType scalar_type_of(DType dtype, std::string_view who);  // throws Error (input) for one that torch lacks
DType dtype_of_tensor(const at::Tensor& tensor);  // throws Error (bug) for a type that the format lacks
DType dtype_of_scalar(at::ScalarType type);

}  // namespace loci
