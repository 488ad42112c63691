// Legend: N rows, D width, T tokens, K reads of a token.
#include "loci/table/mapped_table.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <torch/torch.h>
#include <ucontext.h>
#include <unistd.h>

#include "loci/base/check.h"
#include "loci/base/durable_file.h"
#include "loci/base/progress.h"
#include "loci/table/local_table.h"
#include "loci/table/quantise.h"
#include "tests/system_call_filter.h"
#include "tests/temporary_folder.h"

namespace loci {
namespace {

namespace fs = std::filesystem;

class MappedTableTest : public testing::Test {
 protected:
  // Bytes that the file takes on the disk.
  static int64_t blocks(const fs::path& file) {
    struct stat status = {};
    return stat(file.c_str(), &status) == 0 ? status.st_blocks * 512 : -1;
  }
  // A file of `rows` as a checkpoint holds them.
  fs::path saved(const at::Tensor& rows, const std::string& name = "m") const {
    const fs::path file = folder_ / "saved.safetensors";
    const at::Tensor plain = rows.detach().contiguous();
    write_safetensors(file, {{name,
                              dtype_of_tensor(plain),
                              plain.sizes().vec(),
                              {static_cast<const std::byte*>(plain.const_data_ptr()), plain.nbytes()}}});
    return file;
  }

  const TemporaryFolder temporary_;
  const fs::path folder_ = temporary_.path();
};

TEST_F(MappedTableTest, TakesItsDiskAtOnceAndNoMemory) {
  const int64_t before = resident_bytes();
  MappedTable table("m", 1 << 16, 512, at::kFloat, folder_);  // 128 MiB
  EXPECT_GE(blocks(folder_ / "table.m.safetensors"), int64_t{128} << 20);
  EXPECT_LT(resident_bytes() - before, int64_t{32} << 20);
  table.store().values().data()[12345].fill_(1);
  table.store().initialise_zero();
  EXPECT_EQ(table.store().values()[12345].count_nonzero().item<int64_t>(), 0);
  EXPECT_GE(blocks(folder_ / "table.m.safetensors"), int64_t{128} << 20);
}

TEST_F(MappedTableTest, AFullDiskIsToldBeforeAnythingIsUsed) {
  const fs::path disk = folder_ / "disk";
  fs::create_directory(disk);
  if (mount("tmpfs", disk.c_str(), "tmpfs", 0, "size=1m") != 0) GTEST_SKIP() << "mounting a tmpfs is not allowed here";
  expect_error(ExitCode::resources, "2.0 MiB of disk must be available, got No space left",
               [&] { MappedTable("m", 1024, 512, at::kFloat, disk); });
  EXPECT_TRUE(fs::is_empty(disk));
  umount(disk.c_str());
}

TEST_F(MappedTableTest, ServesAFileAndKeepsItsWritesToItself) {
  const at::Tensor rows = at::randn({40, 6});
  const fs::path file = saved(rows);
  const std::string bytes = read_text_file(file);
  auto table = std::make_shared<ServedTable>(file, "m");
  EXPECT_TRUE(torch::equal(table->store().values(), rows));
  EXPECT_TRUE(table->frozen());
  expect_error(ExitCode::usage, "must stay frozen", [&] { table->set_frozen(false); });
  const at::Tensor index = at::tensor({3, 39}, at::kLong).view({1, 2});
  const at::Tensor read = table->read(index, at::ones({1, 2}), table->register_use());
  EXPECT_TRUE(torch::allclose(read[0], rows[3] + rows[39]));

  const at::Tensor row = at::tensor({3, 39}, at::kLong);
  table->store().write_rows(row, [&] { at::Tensor(table->store().values()).index_fill_(0, row, 7); });
  EXPECT_EQ(table->store().values().eq(7).sum().item<int64_t>(), 12);
  EXPECT_EQ(read_text_file(file), bytes);
  EXPECT_TRUE(torch::equal(ServedTable(file, "m").store().values(), rows));
  expect_error(ExitCode::usage, "must keep the rows of its file", [&] { table->store().initialise_zero(); });
}

TEST_F(MappedTableTest, ServesInt8RowsWithTheirScale) {
  const at::Tensor rows = at::randn({9, 5});
  const QuantisedRows quantised = quantise_rows(rows);
  const fs::path file = folder_ / "q.safetensors";
  const auto bytes = [](const at::Tensor& t) {
    return std::span(static_cast<const std::byte*>(t.const_data_ptr()), t.nbytes());
  };
  write_safetensors(
      file, {{"m", DType::I8, {9, 5}, bytes(quantised.values)}, {"m.scale", DType::F32, {9}, bytes(quantised.scale)}});
  // After 45 bytes of rows the scale is misaligned.
  expect_error(ExitCode::input, "must be aligned", [&] { ServedTable(file, "m"); });
  write_safetensors(
      file, {{"m.scale", DType::F32, {9}, bytes(quantised.scale)}, {"m", DType::I8, {9, 5}, bytes(quantised.values)}});
  auto table = std::make_shared<ServedTable>(file, "m");
  LocalTable local("m", 9, 5, {at::kChar});
  local.store().set_rows(0, rows);
  const at::Tensor index = at::arange(9, at::kLong).view({9, 1});
  EXPECT_TRUE(torch::equal(table->read(index, at::ones({9, 1}), table->register_use()),
                           local.read(index, at::ones({9, 1}), local.register_use())));
}

TEST_F(MappedTableTest, ServesATableLargerThanMemory) {
  // 1 TiB of zeros as a hole, with one row in its midst.
  const int64_t rows = int64_t{1} << 26, width = 4096;
  const fs::path file = folder_ / "large.safetensors";
  const std::string start = safetensors_start({{"m", DType::F32, {rows, width}}}, {}, "test");
  const int descriptor = open(file.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
  ASSERT_GE(descriptor, 0);
  ASSERT_EQ(pwrite(descriptor, start.data(), start.size(), 0), std::ssize(start));
  if (ftruncate(descriptor, static_cast<off_t>(start.size()) + rows * width * 4) != 0) {
    close(descriptor);
    GTEST_SKIP() << "the file system has no files of this size";
  }
  const std::vector<float> ones(width, 1);
  const int64_t one = rows / 2 + 77;
  ASSERT_EQ(pwrite(descriptor, ones.data(), ones.size() * 4, static_cast<off_t>(start.size()) + one * width * 4),
            std::ssize(ones) * 4);
  close(descriptor);
  const int64_t before = resident_bytes();
  auto table = std::make_shared<ServedTable>(file, "m");
  const int64_t use = table->register_use();
  const auto sum_of = [&](int64_t row) {
    return table->read(at::full({1, 1}, row, at::kLong), at::ones({1, 1}), use).sum().item<float>();
  };
  EXPECT_EQ(sum_of(one), width);
  EXPECT_EQ(sum_of(0) + sum_of(rows - 1), 0);
  const at::Tensor last = at::full({1}, rows - 1, at::kLong);
  table->store().write_rows(last, [&] { table->store().values().data()[rows - 1].fill_(2); });
  EXPECT_EQ(sum_of(rows - 1), 2 * width);
  EXPECT_LT(resident_bytes() - before, int64_t{64} << 20);
}

TEST_F(MappedTableTest, ServesFromAFileSystemWithoutSharedMappings) {
  const at::Tensor rows = at::randn({40, 6});
  const fs::path file = saved(rows);
  const bool ran = run_filtered(kSharedMapping, SECCOMP_RET_ERRNO | ENODEV, [&] {
    EXPECT_TRUE(torch::equal(ServedTable(file, "m").store().values(), rows));
    EXPECT_EQ(SafetensorsReader(file).bytes("m").size(), rows.nbytes());
    // Rows that are trained must be shared with their file. What was allocated for them is given back.
    expect_error(ExitCode::input, "the file system must allow shared mappings",
                 [&] { MappedTable("trained", 4, 4, at::kFloat, folder_); });
    EXPECT_FALSE(fs::exists(folder_ / "table.trained.safetensors"));
  });
  if (!ran) GTEST_SKIP() << "filters of system calls are not allowed here";
}

// The first allocation of disk is interrupted, the next ones only set the file's length.
int allocations = 0;
void interrupt_first_allocation(int, siginfo_t*, void* context) {
  auto& registers = static_cast<ucontext_t*>(context)->uc_mcontext.gregs;
  const auto end = static_cast<off_t>(registers[REG_RDX] + registers[REG_R10]);
  registers[REG_RAX] = ++allocations == 1 ? -EINTR : ftruncate(static_cast<int>(registers[REG_RDI]), end);
}

TEST_F(MappedTableTest, AnInterruptedAllocationOfDiskIsRepeated) {
  struct sigaction action = {}, before = {};
  action.sa_sigaction = interrupt_first_allocation;
  action.sa_flags = SA_SIGINFO;
  ASSERT_EQ(sigaction(SIGSYS, &action, &before), 0);
  allocations = 0;
  const bool ran = run_filtered({SYS_fallocate, 1, ~0U, 0}, SECCOMP_RET_TRAP, [&] {
    MappedTable table("m", 16, 4, at::kFloat, folder_);
    EXPECT_EQ(table.store().values().count_nonzero().item<int64_t>(), 0);
  });
  sigaction(SIGSYS, &before, nullptr);
  if (!ran) GTEST_SKIP() << "filters of system calls are not allowed here";
  EXPECT_EQ(allocations, 2);
}

TEST_F(MappedTableTest, PartsStartLikeTheirPartOfTheWhole) {
  LocalTable whole("m", 30, 5);
  whole.store().initialise_normal(3, 1);
  const auto part = std::make_shared<MappedRows>("m", RowRange{11, 19}, 5, at::kFloat, folder_);
  part->initialise_normal(3, 1);
  EXPECT_TRUE(torch::equal(part->values(), whole.store().values().narrow(0, 11, 19)));
}

TEST_F(MappedTableTest, WhatIsNoTableGetsOneLine) {
  const fs::path file = saved(at::randn({40, 600}));
  expect_error(ExitCode::input, "the file must hold other, got none", [&] { ServedTable(file, "other"); });
  const auto size = fs::file_size(file);
  fs::resize_file(file, size - 1);
  expect_error(ExitCode::input, "saved.safetensors", [&] { ServedTable(file, "m"); });
  fs::resize_file(file, 4096);
  expect_error(ExitCode::input, "saved.safetensors", [&] { ServedTable(file, "m"); });
  expect_error(ExitCode::input, "rows [N, D]", [&] { ServedTable(saved(at::randn({4})), "m"); });
  expect_error(ExitCode::input, "rows must be float32", [&] { ServedTable(saved(at::ones({4, 4}, at::kLong)), "m"); });
  expect_error(ExitCode::usage, "dtype of mapped rows", [&] { MappedTable("m", 4, 4, at::kChar, folder_); });
}

}  // namespace
}  // namespace loci
