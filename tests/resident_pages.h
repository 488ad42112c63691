// For tests of what is in memory: the pages of a mapping.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <vector>

namespace loci {

// Numbers of the pages in memory, ascending. `begin`: a page's start.
inline std::vector<int64_t> resident_pages(const std::byte* begin, int64_t bytes) {
  const int64_t page = sysconf(_SC_PAGESIZE);
  std::vector<unsigned char> state(static_cast<size_t>((bytes + page - 1) / page));
  std::vector<int64_t> pages;
  if (mincore(const_cast<std::byte*>(begin), static_cast<size_t>(bytes), state.data()) != 0) return {-1};
  for (size_t i = 0; i < state.size(); ++i) {
    if ((state[i] & 1) != 0) pages.push_back(static_cast<int64_t>(i));
  }
  return pages;
}

// Calls `drop` again while pages stay, as happens once in a hundred times on a busy machine.
inline void repeat_drop(const std::function<void()>& drop, const std::function<bool()>& gone) {
  int attempt = 0;
  do drop();
  while (!gone() && ++attempt < 100);
}

}  // namespace loci
