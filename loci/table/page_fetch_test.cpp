#include "loci/table/page_fetch.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <tuple>
#include <utility>
#include <vector>

#include "tests/resident_pages.h"
#include "tests/system_call_filter.h"
#include "tests/temporary_folder.h"

namespace loci {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

// A file of 599 pages and a part of one.
class PageFetch : public testing::Test {
 protected:
  static constexpr int64_t kFilePages = 600;

  PageFetch() {
    descriptor_ = open(file_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    const std::vector<char> bytes(static_cast<size_t>(size_), 1);
    EXPECT_EQ(pwrite(descriptor_, bytes.data(), bytes.size(), 0), size_);
    void* mapping = mmap(nullptr, static_cast<size_t>(size_), PROT_READ | PROT_WRITE, MAP_SHARED, descriptor_, 0);
    mapping_ = static_cast<std::byte*>(mapping);
    madvise(mapping, static_cast<size_t>(size_), MADV_RANDOM);
    posix_fadvise(descriptor_, 0, 0, POSIX_FADV_RANDOM);
    drop();
  }
  ~PageFetch() override {
    munmap(mapping_, static_cast<size_t>(size_));
    close(descriptor_);
  }
  void SetUp() override {
    if (!resident().empty()) GTEST_SKIP() << "the file system keeps its pages in memory";
  }
  void drop() const {
    repeat_drop([&] { drop_pages(descriptor_, mapping_, 0, size_); }, [&] { return resident().empty(); });
  }
  std::vector<int64_t> resident() const { return resident_pages(mapping_, size_); }
  FetchCounts fetch(const std::vector<int64_t>& row, int64_t row_bytes, int64_t first_byte = 0,
                    PageUse use = PageUse::read) const {
    return fetch_rows({descriptor_, mapping_, first_byte, row_bytes}, row, use, file_);
  }

  const TemporaryFolder folder_;
  const std::filesystem::path file_ = folder_ / "pages";
  const int64_t page_ = sysconf(_SC_PAGESIZE), size_ = (kFilePages - 1) * page_ + 100;
  int descriptor_ = -1;
  std::byte* mapping_ = nullptr;
};

// Calls of madvise with this advice.
CallPattern advice(uint32_t which) {
  return {SYS_madvise, 2, ~0U, which};
}
constexpr CallPattern kEveryRead = {SYS_pread64, 0, 0, 0};
constexpr uint32_t kPopulate = 22;

// Of this thread, of pages that are in memory.
int64_t faults_so_far() {
  rusage usage = {};
  getrusage(RUSAGE_THREAD, &usage);
  return usage.ru_minflt;
}

TEST_F(PageFetch, ExactlyThePagesOfTheRowsComeIn) {
  // Rows of half a page, from byte 64 on: row 3 is in pages 1 and 2, row 200 in page 100, row 201 in 100 and 101.
  const FetchCounts counts = fetch({201, 3, 200, 3, 201}, page_ / 2, 64);
  EXPECT_THAT(resident(), ElementsAre(1, 2, 100, 101));
  EXPECT_EQ(counts.pages, 4);
  EXPECT_EQ(counts.advices, 2);  // adjacent pages together
  EXPECT_EQ(counts.failed_advices, 0);
}

TEST_F(PageFetch, ThePartOfAPageAtTheEndOfTheFileComesIn) {
  fetch({size_ / 36 - 1}, 36);
  EXPECT_THAT(resident(), ElementsAre(kFilePages - 1));
}

TEST_F(PageFetch, AWideRowIsAdvisedInPartsThatTheKernelReadsWhole) {
  const FetchCounts counts = fetch({1}, 100 * page_);
  EXPECT_EQ(counts.advices, (100 * page_ + (128 << 10) - 1) / (128 << 10));
  EXPECT_EQ(counts.pages, 100);
  EXPECT_EQ(std::ssize(resident()), 100);
}

TEST_F(PageFetch, MoreRowsThanAreAdvisedAtOnceAllComeIn) {
  std::vector<int64_t> row;
  for (int64_t i = 0; i < 300; ++i) row.push_back(2 * i);  // every other page
  const FetchCounts counts = fetch(row, page_);
  EXPECT_EQ(counts.advices, 300);
  EXPECT_EQ(counts.pages, 300);
  EXPECT_EQ(resident(), row);
}

TEST_F(PageFetch, ResidentRowsAreLeftAlone) {
  fetch({10, 20}, page_);
  const FetchCounts counts = fetch({20, 10, 20}, page_);
  EXPECT_EQ(counts.resident_calls, 1);
  EXPECT_EQ(counts.advices, 0);
  EXPECT_EQ(fetch({}, page_).calls, 0);
}

TEST_F(PageFetch, PagesAreMappedForTheirUse) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "the sanitizer's own pages fault as well";
#endif
  if (madvise(mapping_, static_cast<size_t>(page_), kPopulate) != 0)
    GTEST_SKIP() << "the kernel cannot map pages ahead";
  const std::vector<int64_t> row = {10, 20, 30, 40, 50};
  auto* const bytes = static_cast<volatile std::byte*>(mapping_);
  // Faults of one read of each page, and of one write of each after that.
  const auto faults = [&](PageUse use) {
    drop();
    fetch(row, page_, 0, use);
    const int64_t first = faults_so_far();
    for (const int64_t number : row) (void)bytes[number * page_];
    const int64_t second = faults_so_far();
    for (const int64_t number : row) bytes[number * page_] = std::byte{2};
    return std::pair(second - first, faults_so_far() - second);
  };
  faults(PageUse::read);  // the pages of the code itself
  EXPECT_EQ(faults(PageUse::read), std::pair(int64_t{0}, int64_t{5}));
  EXPECT_EQ(faults(PageUse::write), std::pair(int64_t{0}, int64_t{0}));
}

TEST_F(PageFetch, FailedAdvicesAreCountedAndTheirRowsComeInAllTheSame) {
  const bool ran = run_filtered(advice(MADV_WILLNEED), SECCOMP_RET_ERRNO | EBADF, [&] {
    const FetchCounts counts = fetch({7, 9}, page_);
    EXPECT_EQ(counts.advices, 2);
    EXPECT_EQ(counts.failed_advices, 2);
    EXPECT_EQ(counts.advice_error, EBADF);
    EXPECT_THAT(resident(), ElementsAre(7, 9));
  });
  if (!ran) GTEST_SKIP() << "filters of system calls are not allowed here";
}

TEST_F(PageFetch, AKernelThatCannotPopulateWaitsByReading) {
  const bool ran = run_filtered(advice(kPopulate), SECCOMP_RET_ERRNO | EINVAL, [&] {
    EXPECT_EQ(fetch({7, 8, 20}, page_).failed_advices, 0);
    EXPECT_THAT(resident(), ElementsAre(7, 8, 20));
  });
  if (!ran) GTEST_SKIP() << "filters of system calls are not allowed here";
}

TEST_F(PageFetch, AnErrorOfTheDiskIsOneLine) {
  for (const auto& [error, code, text] :
       {std::tuple{EIO, ExitCode::input, "pages: rows must be readable, got Input/output error"},
        std::tuple{ENOMEM, ExitCode::resources, "pages: rows must be readable, got Cannot allocate memory"}}) {
    drop();
    const bool ran = run_filtered(advice(kPopulate), SECCOMP_RET_ERRNO | EFAULT, [&, error, code, text] {
      run_filtered(kEveryRead, SECCOMP_RET_ERRNO | static_cast<uint32_t>(error),
                   [&] { expect_error(code, text, [&] { fetch({7, 9}, page_); }); });
    });
    if (!ran) GTEST_SKIP() << "filters of system calls are not allowed here";
  }
}

TEST_F(PageFetch, AFileCutShortIsOneLine) {
  ASSERT_EQ(ftruncate(descriptor_, static_cast<off_t>(8 * page_)), 0);
  expect_error(ExitCode::input, "pages: rows must reach byte " + std::to_string(9 * page_) + ", got a file that ends",
               [&] { fetch({7, 9}, page_); });
  EXPECT_THAT(resident(), ElementsAre(7));
}

}  // namespace
}  // namespace loci
