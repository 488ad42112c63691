#include "loci/train/tensor_file.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cstring>
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

void require_contiguous(const std::string& name, const at::Tensor& tensor) {
  if (tensor.is_contiguous()) return;
  fail(ExitCode::bug, "checkpoint", fmt::format("{} must be contiguous", name), "strides");
}

}  // namespace

std::vector<SafetensorsTensor> as_safetensors(const NamedTensors& tensors) {
  std::vector<SafetensorsTensor> result;
  for (const auto& [name, tensor] : tensors) {
    require_contiguous(name, tensor);
    result.push_back({name,
                      dtype_of_tensor(tensor),
                      tensor.sizes().vec(),
                      {static_cast<const std::byte*>(tensor.const_data_ptr()), tensor.nbytes()}});
  }
  return result;
}

void load_tensors(const std::filesystem::path& path, const NamedTensors& targets) {
  const SafetensorsReader file(path);
  const std::string who = path.string();
  std::set<std::string> wanted;
  for (const auto& [name, tensor] : targets) {
    wanted.insert(name);
    const SafetensorsEntry* entry = file.find(name);
    if (entry == nullptr) fail(ExitCode::input, who, fmt::format("the file must hold {}", name), "none of that name");
    const DType dtype = dtype_of_tensor(tensor);
    if (entry->dtype != dtype || entry->shape != tensor.sizes().vec()) {
      fail(ExitCode::input, who,
           fmt::format("{} must be {} {}", name, name_of(dtype), shape_text(tensor.sizes().vec())),
           fmt::format("{} {}", name_of(entry->dtype), shape_text(entry->shape)));
    }
  }
  for (const SafetensorsEntry& entry : file.tensors()) {
    if (wanted.count(entry.name) == 0) fail(ExitCode::input, who, "every tensor must belong to the model", entry.name);
  }
  for (const auto& [name, tensor] : targets) {
    require_contiguous(name, tensor);
    copy_bytes(static_cast<std::byte*>(tensor.mutable_data_ptr()), file.bytes(*file.find(name)));
    tensor.unsafeGetTensorImpl()->bump_version();
  }
}

}  // namespace loci
