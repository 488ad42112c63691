// The sum by which files and tables are known.
#pragma once

#include <cstddef>
#include <span>
#include <string>

namespace loci {

class MappedFile;

// XXH3-128 in 32 hexadecimal digits: against accidents, not against an adversary.
std::string checksum(std::span<const std::byte> bytes);
// The same of a file, whose pages are given back on the way: a large file adds nothing to the process's memory.
std::string checksum(const MappedFile& file);

}  // namespace loci
