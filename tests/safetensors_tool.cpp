// Our reader and writer behind a command line, for the comparison with the Python package in test_safetensors.py.
//   safetensors_tool copy IN OUT     reads IN, writes its tensors in their order to OUT
//   safetensors_tool list FILE       one JSON line a tensor, {"name", "dtype", "shape", "sum"}, then the metadata
#include <cstdio>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "loci/base/check.h"
#include "loci/table/safetensors.h"

namespace {

using loci::SafetensorsEntry;

void copy(const char* from, const char* to) {
  const loci::SafetensorsReader reader(from);
  std::vector<loci::SafetensorsTensor> tensors;
  for (const SafetensorsEntry& entry : reader.tensors()) {
    tensors.push_back({entry.name, entry.dtype, entry.shape, reader.bytes(entry)});
  }
  loci::write_safetensors(to, tensors, reader.metadata());
}

void list(const char* file) {
  const loci::SafetensorsReader reader(file);
  for (const SafetensorsEntry& entry : reader.tensors()) {
    uint64_t sum = 0;
    for (const std::byte byte : reader.bytes(entry)) sum += std::to_integer<uint64_t>(byte);
    const nlohmann::json line = {
        {"name", entry.name}, {"dtype", entry.dtype_name}, {"shape", entry.shape}, {"sum", sum}};
    std::puts(line.dump().c_str());
  }
  std::puts(nlohmann::json(reader.metadata()).dump().c_str());
}

}  // namespace

int main(int argc, char** argv) {
  const std::string_view verb = argc > 1 ? argv[1] : "";
  try {
    if (verb == "copy" && argc == 4) return copy(argv[2], argv[3]), 0;
    if (verb == "list" && argc == 3) return list(argv[2]), 0;
  } catch (const loci::Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return static_cast<int>(error.code());
  }
  std::fprintf(stderr, "safetensors_tool copy IN OUT | list FILE\n");
  return 2;
}
