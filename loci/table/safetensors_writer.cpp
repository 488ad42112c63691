#include <cstring>
#include <nlohmann/json.hpp>
#include <unordered_set>

#include "loci/base/check.h"
#include "loci/table/safetensors.h"
#include "loci/table/safetensors_format.h"

namespace loci {
namespace {

using safetensors::bytes_of;
using safetensors::escaped;

constexpr size_t page = 4096;

int64_t checked_bytes(const SafetensorsSpec& tensor, std::string_view who) {
  const std::optional<int64_t> bytes = bytes_of(tensor.shape, tensor.dtype);
  if (bytes) return *bytes;
  fail(ExitCode::bug, who,
       fmt::format("tensor {} must have a shape of whole bytes that fit 63 bits", escaped(tensor.name)),
       fmt::format("{} of {}", name_of(tensor.dtype), nlohmann::json(tensor.shape).dump()));
}

// The header as JSON, in the order of the arguments.
std::string header_text(const std::vector<SafetensorsSpec>& tensors, const SafetensorsMetadata& metadata,
                        std::string_view who) {
  std::string header = "{";
  const auto add = [&header](const std::string& name, const nlohmann::ordered_json& value) {
    if (header.size() > 1) header += ',';
    header += nlohmann::json(name).dump() + ":" + value.dump();
  };
  if (!metadata.empty()) add("__metadata__", nlohmann::ordered_json(metadata));
  int64_t offset = 0;
  std::unordered_set<std::string_view> names;
  for (const SafetensorsSpec& tensor : tensors) {
    if (tensor.name == "__metadata__" || !names.insert(tensor.name).second) {
      fail(ExitCode::bug, who, "tensor names must be distinct and not __metadata__", escaped(tensor.name));
    }
    const int64_t end = checked_sum(who, "bytes", offset, checked_bytes(tensor, who));
    nlohmann::ordered_json entry;
    entry["dtype"] = name_of(tensor.dtype);
    entry["shape"] = tensor.shape;
    entry["data_offsets"] = {offset, end};
    add(tensor.name, entry);
    offset = end;
  }
  return header + "}";
}

void check_tensors(const std::vector<SafetensorsTensor>& tensors, const std::string& who) {
  for (const SafetensorsTensor& tensor : tensors) {
    const std::optional<int64_t> bytes = bytes_of(tensor.shape, tensor.dtype);
    if (!bytes || *bytes != static_cast<int64_t>(tensor.bytes.size())) {
      fail(ExitCode::bug, who, fmt::format("tensor {} must have the bytes of its shape", escaped(tensor.name)),
           fmt::format("{} for {} of {}", tensor.bytes.size(), name_of(tensor.dtype),
                       nlohmann::json(tensor.shape).dump()));
    }
  }
}

}  // namespace

std::string safetensors_start(const std::vector<SafetensorsSpec>& tensors, const SafetensorsMetadata& metadata,
                              std::string_view who) {
  std::string header = header_text(tensors, metadata, who);
  const size_t data = (sizeof(uint64_t) + header.size() + page - 1) / page * page;
  header.resize(data - sizeof(uint64_t), ' ');
  if (static_cast<int64_t>(header.size()) > safetensors::header_limit) {
    fail(ExitCode::bug, who, "the header must be at most 100 MB", fmt::format("{} bytes", header.size()));
  }
  std::string size(sizeof(uint64_t), '\0');
  for (size_t i = 0; i < size.size(); ++i) size[i] = static_cast<char>(header.size() >> (8 * i));
  return size + header;
}

SafetensorsWriter::SafetensorsWriter(const std::filesystem::path& path, const std::vector<SafetensorsSpec>& tensors,
                                     const SafetensorsMetadata& metadata)
    : path_(path), file_(path) {
  file_.write(safetensors_start(tensors, metadata, path.string()));
  for (const SafetensorsSpec& tensor : tensors) left_ += checked_bytes(tensor, path.string());
}

void SafetensorsWriter::append(std::span<const std::byte> bytes) {
  left_ -= static_cast<int64_t>(bytes.size());
  if (left_ < 0) fail(ExitCode::bug, path_.string(), "the data must end with the last tensor", "more");
  file_.write_sparse(bytes);
}

void SafetensorsWriter::commit() {
  if (left_ != 0) fail(ExitCode::bug, path_.string(), "the data must reach the last tensor's end", "less");
  file_.commit();
}

void write_safetensors(const std::filesystem::path& path, const std::vector<SafetensorsTensor>& tensors,
                       const SafetensorsMetadata& metadata) {
  check_tensors(tensors, path.string());
  std::vector<SafetensorsSpec> specs;
  for (const SafetensorsTensor& tensor : tensors) specs.push_back({tensor.name, tensor.dtype, tensor.shape});
  SafetensorsWriter file(path, specs, metadata);
  for (const SafetensorsTensor& tensor : tensors) file.append(tensor.bytes);
  file.commit();
}

}  // namespace loci
