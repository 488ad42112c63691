#include "loci/table/page_fetch.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <vector>

#include "loci/base/check.h"
#include "loci/base/paths.h"

#ifndef MADV_POPULATE_READ  // the C library's headers are older than the kernel
#define MADV_POPULATE_READ 22
#define MADV_POPULATE_WRITE 23
#endif

namespace loci {
namespace {

namespace fs = std::filesystem;

// More than disks take at once, and too little for the kernel to drop a page again before it is waited for.
constexpr size_t kAdvicesAhead = 256;
// The kernel reads at most its read-ahead window for one advice: 128 KiB where nobody changed it.
constexpr int64_t kMostAdviceBytes = int64_t{128} << 10;

struct ByteRange {
  int64_t begin, end;  // in the file, multiples of a page
};

bool page_is_resident(const FileRows& rows, int64_t row) {
  const int64_t first = rows.first_byte + row * rows.row_bytes;
  if ((fcntl(rows.descriptor, F_GETFL) & O_ACCMODE) == O_RDWR) {
    const int64_t page = sysconf(_SC_PAGESIZE);
    unsigned char state = 0;
    return mincore(rows.mapping + first / page * page, 1, &state) == 0 && (state & 1) != 0;
  }
  // mincore() calls every page of a file that this user may not write resident. This read starts to fetch an absent
  // page, and calls it resident where the disk is quick.
  char byte = 0;
  const iovec target = {&byte, 1};
  return preadv2(rows.descriptor, &target, 1, static_cast<off_t>(first), RWF_NOWAIT) == 1;
}

bool sample_is_resident(const FileRows& rows, std::span<const int64_t> row) {
  const size_t count = std::min(row.size(), std::clamp<size_t>(row.size() / 32, 4, 16));
  for (size_t i = 0; i < count; ++i) {
    if (!page_is_resident(rows, row[i * row.size() / count])) return false;
  }
  return true;
}

// The pages of the rows: ascending, adjacent ones together as far as one advice may reach.
std::vector<ByteRange> page_ranges(const FileRows& rows, std::span<const int64_t> row) {
  const int64_t page = sysconf(_SC_PAGESIZE);
  std::vector<int64_t> sorted(row.begin(), row.end());
  std::sort(sorted.begin(), sorted.end());
  std::vector<ByteRange> ranges;
  for (const int64_t number : sorted) {
    const int64_t first = rows.first_byte + number * rows.row_bytes;
    const int64_t end = (first + rows.row_bytes + page - 1) / page * page;
    int64_t begin = first / page * page;
    if (!ranges.empty()) begin = std::max(begin, ranges.back().end);
    while (begin < end) {
      const int64_t next = std::min(begin + page, end);
      const bool adjacent = !ranges.empty() && ranges.back().end == begin;
      if (adjacent && next - ranges.back().begin <= kMostAdviceBytes) {
        ranges.back().end = next;
      } else {
        ranges.push_back({begin, next});
      }
      begin = next;
    }
  }
  return ranges;
}

// Reads a byte of each page: it comes into memory, or the disk's error is known, which a fault would tell by SIGBUS.
void read_pages(const FileRows& rows, ByteRange range, const fs::path& file) {
  const int64_t page = sysconf(_SC_PAGESIZE);
  for (int64_t begin = range.begin; begin < range.end; begin += page) {
    char byte = 0;
    ssize_t count = -1;
    do count = pread(rows.descriptor, &byte, 1, static_cast<off_t>(begin));
    while (count < 0 && errno == EINTR);
    if (count < 0) fail_path(file, "rows must be readable", errno);
    if (count == 0) {
      fail(ExitCode::input, file.string(), fmt::format("rows must reach byte {}", begin), "a file that ends before");
    }
  }
}

void wait_for_pages(const FileRows& rows, ByteRange range, PageUse use, const fs::path& file) {
  // Also fails on a kernel that does not know this advice.
  const auto bytes = static_cast<size_t>(range.end - range.begin);
  const int advice = use == PageUse::write ? MADV_POPULATE_WRITE : MADV_POPULATE_READ;
  if (madvise(rows.mapping + range.begin, bytes, advice) != 0) read_pages(rows, range, file);
}

}  // namespace

FetchCounts& FetchCounts::operator+=(const FetchCounts& other) {
  calls += other.calls;
  resident_calls += other.resident_calls;
  pages += other.pages;
  advices += other.advices;
  failed_advices += other.failed_advices;
  if (other.advice_error != 0) advice_error = other.advice_error;
  return *this;
}

FetchCounts fetch_rows(const FileRows& rows, std::span<const int64_t> row, PageUse use, const fs::path& file) {
  FetchCounts counts;
  if (row.empty()) return counts;
  counts.calls = 1;
  if (sample_is_resident(rows, row)) {
    counts.resident_calls = 1;
    return counts;
  }
  const std::vector<ByteRange> ranges = page_ranges(rows, row);
  const int64_t page = sysconf(_SC_PAGESIZE);
  std::vector<bool> advised(ranges.size());
  size_t waited = 0;
  const auto wait_until = [&](size_t end) {
    for (; waited < end; ++waited) {
      // Without the advice, to populate a page that is missing took 3.4 ms, sixty times as long as to read it.
      advised[waited] ? wait_for_pages(rows, ranges[waited], use, file) : read_pages(rows, ranges[waited], file);
    }
  };
  for (size_t i = 0; i < ranges.size(); ++i) {
    const auto bytes = static_cast<size_t>(ranges[i].end - ranges[i].begin);
    advised[i] = madvise(rows.mapping + ranges[i].begin, bytes, MADV_WILLNEED) == 0;
    if (!advised[i]) counts.advice_error = errno;
    counts.failed_advices += advised[i] ? 0 : 1;
    counts.pages += static_cast<int64_t>(bytes) / page;
    if (i >= kAdvicesAhead) wait_until(i - kAdvicesAhead + 1);
  }
  counts.advices = std::ssize(ranges);
  wait_until(ranges.size());
  return counts;
}

void drop_pages(int descriptor, std::byte* mapping, int64_t begin, int64_t bytes) {
  madvise(mapping + begin, static_cast<size_t>(bytes), MADV_DONTNEED);  // mapped pages would stay
  fdatasync(descriptor);                                                // so would written ones
  posix_fadvise(descriptor, static_cast<off_t>(begin), static_cast<off_t>(bytes), POSIX_FADV_DONTNEED);
}

}  // namespace loci
