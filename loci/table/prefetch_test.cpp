// Table::prefetch. Legend: N rows, D width.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>
#include <unistd.h>

#include <thread>

#include "loci/table/local_table.h"
#include "loci/table/mapped_table.h"
#include "loci/table/page_fetch.h"
#include "loci/table/quantise.h"
#include "tests/resident_pages.h"
#include "tests/system_call_filter.h"
#include "tests/temporary_folder.h"

namespace loci {
namespace {

namespace fs = std::filesystem;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

constexpr int64_t kPrefetchRows = 64, kPrefetchWidth = 1024;  // a row is a page of float32

void drop_bytes(const fs::path& file, std::byte* mapping, int64_t begin, int64_t bytes) {
  const int descriptor = open(file.c_str(), O_RDWR | O_CLOEXEC);
  ASSERT_GE(descriptor, 0);
  drop_pages(descriptor, mapping, begin, bytes);
  close(descriptor);
}

// A tensor of a file, whose pages are the last of the file.
struct FileView {
  fs::path file;
  at::Tensor tensor;

  std::byte* begin() const { return static_cast<std::byte*>(tensor.data_ptr()); }
  int64_t bytes() const { return static_cast<int64_t>(tensor.nbytes()); }
  void drop() const {
    const int64_t offset = static_cast<int64_t>(fs::file_size(file)) - bytes();
    drop_bytes(file, begin() - offset, offset, bytes());
  }
  std::vector<int64_t> resident() const { return resident_pages(begin(), bytes()); }
};

class Prefetch : public testing::Test {
 protected:
  Prefetch() {
    values_.tensor.detach().normal_();
    moment_.tensor.fill_(1);
    count_.tensor.fill_(1);
    drop();
  }
  void SetUp() override {
    if (any_resident()) GTEST_SKIP() << "the file system keeps its pages in memory";
  }
  FileView state(const std::string& what, int64_t width, at::ScalarType type) const {
    return {folder_ / ("table.m." + what + ".safetensors"),
            table_->store().row_storage(what, width, type, PageSize::small)};
  }
  bool any_resident() const {
    return !values_.resident().empty() || !moment_.resident().empty() || !count_.resident().empty();
  }
  void drop() const {
    repeat_drop(
        [&] {
          for (const FileView& view : {values_, moment_, count_}) view.drop();
        },
        [&] { return !any_resident(); });
  }

  const TemporaryFolder folder_;
  const std::shared_ptr<MappedTable> table_ =
      std::make_shared<MappedTable>("m", kPrefetchRows, kPrefetchWidth, at::kFloat, folder_.path());
  const FileView values_{folder_ / "table.m.safetensors", table_->store().values()};
  const FileView moment_ = state("moment", kPrefetchWidth, at::kFloat);
  const FileView count_ = state("count", 0, at::kInt);
  const at::Tensor rows_ = at::tensor({60, 7, 7, 63, 3, 60}, at::kLong).view({3, 2});
};

TEST_F(Prefetch, BringsRowsAndTheirStateIntoMemory) {
  table_->prefetch(rows_);
  EXPECT_THAT(values_.resident(), ElementsAre(3, 7, 60, 63));
  EXPECT_THAT(moment_.resident(), ElementsAre(3, 7, 60, 63));
  EXPECT_THAT(count_.resident(), ElementsAre(0));
  const FetchCounts counts = table_->store().fetched();
  EXPECT_EQ(counts.calls, 3);
  EXPECT_EQ(counts.pages, 9);
  EXPECT_EQ(counts.failed_advices, 0);
}

TEST_F(Prefetch, LeavesStateOnTheDiskWhereNoStepFollows) {
  {
    const torch::NoGradGuard no_gradient;
    table_->prefetch(rows_);
  }
  EXPECT_THAT(values_.resident(), ElementsAre(3, 7, 60, 63));
  EXPECT_THAT(moment_.resident(), IsEmpty());
  drop();
  table_->set_frozen(true);
  table_->prefetch(rows_);
  EXPECT_THAT(values_.resident(), ElementsAre(3, 7, 60, 63));
  EXPECT_THAT(moment_.resident(), IsEmpty());
}

TEST_F(Prefetch, ReadsGiveTheSameBitsWhileAnotherThreadFetches) {
  const at::Tensor index = torch::randint(0, kPrefetchRows, {32, 4}, at::kLong), weight = torch::randn({32, 4});
  const int64_t use = table_->register_use();
  const at::Tensor expected = table_->read(index, weight, use);
  drop();
  std::thread ahead([&] { table_->prefetch(index); });
  const at::Tensor meanwhile = table_->read(index, weight, use);
  ahead.join();
  EXPECT_TRUE(torch::equal(meanwhile, expected));
  EXPECT_TRUE(torch::equal(table_->read(index, weight, use), expected));
}

TEST_F(Prefetch, RefusesRowsThatDoNotExist) {
  const TablePtr local = std::make_shared<LocalTable>("m", 9, 4);
  for (const TablePtr& table : {TablePtr(table_), local}) {
    const std::string most = std::to_string(table->rows() - 1);
    for (const int64_t row : {int64_t{-1}, table->rows()}) {
      try {
        table->prefetch(at::tensor({int64_t{0}, row}));
        ADD_FAILURE() << row;
      } catch (const c10::IndexError& error) {
        EXPECT_THAT(error.what(),
                    HasSubstr("Table::prefetch: rows must be within 0 .. " + most + ", got " + std::to_string(row)));
      }
    }
    EXPECT_THROW(table->prefetch(at::tensor({0}, at::kInt)), c10::Error);
    table->prefetch(at::empty({0, 3}, at::kLong));
  }
  EXPECT_THAT(values_.resident(), IsEmpty());
}

TEST_F(Prefetch, ATableInMemoryHasNothingToFetch) {
  LocalTable local("m", 9, 4);
  local.prefetch(at::arange(9).t());
  EXPECT_EQ(local.store().fetched().calls, 0);
}

TEST_F(Prefetch, FailedAdvicesAreToldOnce) {
  testing::internal::CaptureStderr();
  const bool ran = run_filtered({SYS_madvise, 2, ~0U, MADV_WILLNEED}, SECCOMP_RET_ERRNO | EBADF, [&] {
    table_->prefetch(at::tensor({3, 5}, at::kLong));
    table_->prefetch(at::tensor({9, 11}, at::kLong));
  });
  const std::string told = testing::internal::GetCapturedStderr();
  if (!ran) GTEST_SKIP() << "filters of system calls are not allowed here";
  EXPECT_EQ(told,
            "table m: 2 of 2 advices to read ahead failed (Bad file descriptor): these pages are read one by "
            "one\n");
  EXPECT_EQ(table_->store().fetched().failed_advices, 9);  // the second call: the count's page is there
  EXPECT_THAT(values_.resident(), ElementsAre(3, 5, 9, 11));
}

TEST_F(Prefetch, AFileCutShortIsOneLine) {
  fs::resize_file(values_.file, fs::file_size(values_.file) - 4096);
  expect_error(ExitCode::input, "table.m.safetensors: rows must reach byte", [&] { table_->prefetch(rows_); });
}

TEST_F(Prefetch, ServedInt8RowsComeInWithTheirScale) {
  // The scale of 2,048 rows of 6 bytes lies in pages 1 and 2 of the file, the rows in pages 3 to 5.
  constexpr int64_t N = 2048;
  const QuantisedRows quantised = quantise_rows(at::randn({N, 6}));
  const fs::path file = folder_ / "q.safetensors";
  const auto bytes = [](const at::Tensor& t) {
    return std::span(static_cast<const std::byte*>(t.const_data_ptr()), t.nbytes());
  };
  write_safetensors(
      file, {{"m.scale", DType::F32, {N}, bytes(quantised.scale)}, {"m", DType::I8, {N, 6}, bytes(quantised.values)}});
  ServedTable table(file, "m");
  const FileView values{file, table.store().values()};
  std::byte* const mapping = values.begin() - 3 * 4096;
  const int64_t size = 6 * 4096;
  drop_bytes(file, mapping, 0, size);
  ASSERT_THAT(resident_pages(mapping, size), IsEmpty());
  table.prefetch(at::tensor({N - 1}));
  EXPECT_THAT(resident_pages(mapping, size), ElementsAre(2, 5));
  EXPECT_EQ(table.store().fetched().calls, 2);
  const at::Tensor index = at::tensor({N - 1}).view({1, 1});
  EXPECT_TRUE(torch::equal(table.read(index, at::ones({1, 1}), table.register_use())[0],
                           quantised.values[N - 1].to(at::kFloat) * quantised.scale[N - 1]));
}

}  // namespace
}  // namespace loci
