// What the reader and the writer of safetensors files share. For safetensors*.cpp.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "loci/table/safetensors.h"

namespace loci::safetensors {

constexpr int64_t header_limit = 100'000'000;  // the Python package's

// Names come from files: quoted and escaped, so that a message stays one line, and cut.
std::string escaped(std::string_view text);
// The bytes of a shape, or nothing when they (or torch's strides, which take a size of 0 as 1) do not fit int64, are no
// whole number, or the dtype is unknown.
std::optional<int64_t> bytes_of(const std::vector<int64_t>& shape, DType dtype);

}  // namespace loci::safetensors
