// Fuzz target: any bytes are either refused as input or a consistent file, and nothing is read beyond them.
#include <cstdint>
#include <cstdlib>
#include <span>

#include "loci/base/check.h"
#include "loci/table/safetensors.h"

namespace {

void require(bool condition) {
  if (!condition) std::abort();
}

__extension__ using Wide = __int128;

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::span<const std::byte> file(reinterpret_cast<const std::byte*>(data), size);
  try {
    const loci::SafetensorsHeader header = loci::parse_safetensors(file, "fuzz");
    int64_t next = header.tensors.empty() ? static_cast<int64_t>(size) : header.tensors.front().begin;
    for (const loci::SafetensorsEntry& tensor : header.tensors) {
      require(tensor.begin == next && tensor.end >= tensor.begin);
      next = tensor.end;
      if (tensor.dtype == loci::DType::unknown) continue;
      Wide bits = loci::bits_of(tensor.dtype);
      for (const int64_t length : tensor.shape) bits *= length;
      require(bits == static_cast<Wide>(tensor.end - tensor.begin) * 8);
    }
    require(next == static_cast<int64_t>(size));
  } catch (const loci::Error& error) {
    require(error.code() == loci::ExitCode::input);
  }
  return 0;
}
