// Named tensors into a safetensors file, and from it into tensors that exist.
#pragma once

#include <ATen/core/Tensor.h>

#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "loci/table/mapped_tensor.h"
#include "loci/table/row_store.h"
#include "loci/table/safetensors.h"

namespace loci {

using NamedTensors = std::vector<std::pair<std::string, at::Tensor>>;

// Writes row-major tensors, whatever the strides in memory (channels last).
void write_tensors(const std::filesystem::path& path, const NamedTensors& tensors);

// All tensors of a file, as copies. Throws Error (input) for types that the framework lacks.
std::map<std::string, at::Tensor> read_tensors(const std::filesystem::path& path);

// Copies a file into `targets`: their storage stays (a replaced one would lose huge pages and mappings), and pages that
// hold the right bytes already are not written. Throws Error (input) when names, dtypes or shapes differ.
void load_tensors(const std::filesystem::path& path, const NamedTensors& targets);

// Consecutive rows of one tensor that become rows of another.
struct RowCopy {
  int64_t from = 0;
  int64_t to = 0;
  int64_t count = 0;
};

// The same for some rows of a file whose tensors have `file_rows` rows each; other rows of the targets, which are
// contiguous, stay as they are. Targets [R, D] get these `columns` of the file's.
void load_rows(const std::filesystem::path& path, const NamedTensors& targets, int64_t file_rows, const RowCopy& rows,
               const std::optional<ColumnRange>& columns = std::nullopt);

// The bytes of a row of `tensor` [n, ...] in a file, and those of them that the tensor has; a tensor [n, D] has
// columns.
struct RowSlice {
  RowSlice(const at::Tensor& tensor, const std::optional<ColumnRange>& columns);
  std::vector<int64_t> shape(int64_t rows) const;  // of so many rows in the file

  size_t file_bytes, first, bytes;

 private:
  std::vector<int64_t> row_;  // its shape in the file
};

}  // namespace loci
