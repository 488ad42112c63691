// The sum by which files and tables are known.
#pragma once

#include <cstddef>
#include <span>
#include <string>

namespace loci {

// XXH3-128 in 32 hexadecimal digits: against accidents, not against an adversary.
std::string checksum(std::span<const std::byte> bytes);

}  // namespace loci
