// The sum by which files and tables are known.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <string_view>

namespace loci {

class MappedFile;

// XXH3-128 in 32 hexadecimal digits: against accidents, not against an adversary.
std::string checksum(std::span<const std::byte> bytes);
// The same of a file, whose pages are given back on the way: a large file adds nothing to the process's memory.
std::string checksum(const MappedFile& file);

// The same of bytes that come in pieces.
class Checksum {
 public:
  Checksum();
  ~Checksum();
  void add(std::span<const std::byte> bytes);
  void add(std::string_view text) { add(std::as_bytes(std::span(text.data(), text.size()))); }
  std::string text() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace loci
