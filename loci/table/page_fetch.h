// Brings scattered rows of a mapped file into memory with many disk requests at once, where page faults make one
// request at a time.
//
// The kernel is told of all missing pages (MADV_WILLNEED), and each page is then waited for and mapped
// (MADV_POPULATE_READ or _WRITE, Linux 5.14; before, it is only waited for). docs/tables.md has what else was measured.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>

namespace loci {

// Rows in a file that is mapped from its first byte on.
struct FileRows {
  int descriptor = -1;
  std::byte* mapping = nullptr;
  int64_t first_byte = 0;  // of row 0 in the file
  int64_t row_bytes = 0;
};

// What the pages are mapped for. A page mapped for reading takes another fault when it is first written.
enum class PageUse { read, write };

struct FetchCounts {
  int64_t calls = 0;
  int64_t resident_calls = 0;  // of these: all sampled pages were in memory, so that nothing was done
  int64_t pages = 0;           // distinct pages that the other calls asked for
  int64_t advices = 0, failed_advices = 0;
  int advice_error = 0;  // of the last failed one
  FetchCounts& operator+=(const FetchCounts& other);
};

// Rows may repeat, in any order; all must be in the file. A sample of the pages (1 of 32, at least 4, at most 16) is
// looked at first. When it is in memory, the others count as in memory too: advice for resident pages would cost more
// than the few faults that are left. Throws Error (input; resources for too little memory) when the disk fails or the
// file is too short. Reads and writes of other threads may go on meanwhile.
FetchCounts fetch_rows(const FileRows& rows, std::span<const int64_t> row, PageUse use,
                       const std::filesystem::path& file);

// The reverse, for `loci bench mapped`: bytes of the file leave memory as far as the kernel lets them; what was written
// reaches the file first. `begin`: a page's start. Only for shared mappings and mappings that were not written.
void drop_pages(int descriptor, std::byte* mapping, int64_t begin, int64_t bytes);

}  // namespace loci
