#include "loci/train/tensor_file.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstring>
#include <optional>
#include <set>

#include "loci/base/check.h"

namespace loci {
namespace {

constexpr size_t kPage = 4096;

std::string shape_text(const std::vector<int64_t>& shape) {
  return fmt::format("[{}]", fmt::join(shape, ", "));
}

// Pages that are equal already stay untouched: mapped zero pages cost no memory until they are written.
void copy_bytes(std::byte* to, std::span<const std::byte> from) {
  for (size_t begin = 0; begin < from.size(); begin += kPage) {
    const size_t count = std::min(kPage, from.size() - begin);
    if (std::memcmp(to + begin, from.data() + begin, count) != 0) std::memcpy(to + begin, from.data() + begin, count);
  }
}

// Files hold row-major tensors. Those of other strides (channels-last parameters and their optimiser state) are copied
// on the way, so that a file does not depend on the layout in memory.
void copy_row_major(const at::Tensor& to, std::span<const std::byte> from) {
  const at::Tensor row_major = at::empty(to.sizes(), to.options());
  std::memcpy(row_major.mutable_data_ptr(), from.data(), from.size());
  const at::NoGradGuard no_grad;
  at::Tensor(to.detach()).copy_(row_major);
}

// Throws Error (input) unless the file holds these tensors and no others; where `rows` is given, with as many rows.
void check_tensors(const SafetensorsReader& file, const NamedTensors& targets, std::optional<int64_t> rows,
                   const std::optional<ColumnRange>& columns = std::nullopt) {
  const std::string who = file.path().string();
  std::set<std::string> wanted;
  for (const auto& [name, tensor] : targets) {
    wanted.insert(name);
    const SafetensorsEntry* entry = file.find(name);
    if (entry == nullptr) fail(ExitCode::input, who, fmt::format("the file must hold {}", name), "none of that name");
    const DType dtype = dtype_of_tensor(tensor);
    const std::vector<int64_t> shape = rows ? RowSlice(tensor, columns).shape(*rows) : tensor.sizes().vec();
    if (entry->dtype != dtype || entry->shape != shape) {
      fail(ExitCode::input, who, fmt::format("{} must be {} {}", name, name_of(dtype), shape_text(shape)),
           fmt::format("{} {}", name_of(entry->dtype), shape_text(entry->shape)));
    }
  }
  for (const SafetensorsEntry& entry : file.tensors()) {
    if (wanted.count(entry.name) == 0) fail(ExitCode::input, who, "every tensor must belong to the model", entry.name);
  }
}

}  // namespace

void write_tensors(const std::filesystem::path& path, const NamedTensors& tensors) {
  std::vector<SafetensorsTensor> views;
  std::vector<at::Tensor> kept;  // what the views are of
  for (const auto& [name, tensor] : tensors) {
    kept.push_back(tensor.contiguous());
    const at::Tensor& row_major = kept.back();
    views.push_back({name,
                     dtype_of_tensor(row_major),
                     row_major.sizes().vec(),
                     {static_cast<const std::byte*>(row_major.const_data_ptr()), row_major.nbytes()}});
  }
  write_safetensors(path, views);
}

std::map<std::string, at::Tensor> read_tensors(const std::filesystem::path& path) {
  const SafetensorsReader file(path);
  std::map<std::string, at::Tensor> tensors;
  for (const SafetensorsEntry& entry : file.tensors()) {
    const at::ScalarType type = scalar_type_of(entry.dtype, fmt::format("{}: {}", path.string(), entry.name));
    const at::Tensor tensor = at::empty(entry.shape, type);
    const std::span<const std::byte> bytes = file.bytes(entry);
    if (!bytes.empty()) std::memcpy(tensor.mutable_data_ptr(), bytes.data(), bytes.size());
    tensors.emplace(entry.name, tensor);
  }
  return tensors;
}

void load_tensors(const std::filesystem::path& path, const NamedTensors& targets) {
  const SafetensorsReader file(path);
  check_tensors(file, targets, std::nullopt);
  for (const auto& [name, tensor] : targets) {
    const std::span<const std::byte> bytes = file.bytes(*file.find(name));
    if (!tensor.is_contiguous()) {
      copy_row_major(tensor, bytes);
      continue;
    }
    copy_bytes(static_cast<std::byte*>(tensor.mutable_data_ptr()), bytes);
    tensor.unsafeGetTensorImpl()->bump_version();
  }
}

RowSlice::RowSlice(const at::Tensor& tensor, const std::optional<ColumnRange>& columns) : row_(tensor.sizes().vec()) {
  bytes = tensor.element_size();
  for (int64_t d = 1; d < tensor.dim(); ++d) bytes *= static_cast<size_t>(tensor.size(d));
  file_bytes = bytes;
  first = 0;
  if (!columns || tensor.dim() != 2) return;
  row_[1] = columns->all;
  file_bytes = static_cast<size_t>(columns->all) * tensor.element_size();
  first = static_cast<size_t>(columns->first) * tensor.element_size();
}

std::vector<int64_t> RowSlice::shape(int64_t rows) const {
  std::vector<int64_t> shape = row_;
  shape.at(0) = rows;
  return shape;
}

void load_rows(const std::filesystem::path& path, const NamedTensors& targets, int64_t file_rows, const RowCopy& rows,
               const std::optional<ColumnRange>& columns) {
  const SafetensorsReader file(path);
  check_tensors(file, targets, file_rows, columns);
  if (rows.count == 0) return;
  for (const auto& [name, tensor] : targets) {
    if (!tensor.is_contiguous()) fail(ExitCode::bug, path.string(), name + " must be contiguous", "strides");
    const RowSlice slice(tensor, columns);
    const std::span<const std::byte> from = file.bytes(*file.find(name));
    auto* const to = static_cast<std::byte*>(tensor.mutable_data_ptr());
    const bool whole = slice.bytes == slice.file_bytes;
    const auto times = static_cast<size_t>(whole ? rows.count : 1);  // rows at once
    for (int64_t i = 0; i < rows.count; i += static_cast<int64_t>(times)) {
      copy_bytes(
          to + static_cast<size_t>(rows.to + i) * slice.bytes,
          from.subspan(static_cast<size_t>(rows.from + i) * slice.file_bytes + slice.first, times * slice.bytes));
    }
    tensor.unsafeGetTensorImpl()->bump_version();
  }
}

}  // namespace loci
