#include "loci/table/row_patch.h"

#include <numeric>
#include <vector>

#include "tests/temporary_folder.h"

namespace loci {
namespace {

constexpr int64_t kRows = 9, kWidth = 5;

struct Values {
  std::vector<float> value = std::vector<float>(kRows * kWidth);
  Values() { std::iota(value.begin(), value.end(), 1.0f); }
  RowBytes<const std::byte> read(const std::string& name = "memory") const {
    return {name, DType::F32, kRows, kWidth, std::as_bytes(std::span(value))};
  }
  RowBytes<std::byte> write(const std::string& name = "memory") {
    return {name, DType::F32, kRows, kWidth, std::as_writable_bytes(std::span(value))};
  }
  float& at(int64_t row, int64_t column) { return value[static_cast<size_t>(row * kWidth + column)]; }
};

struct Tuned {
  TemporaryFolder folder;
  Values before, after;
  std::filesystem::path path = folder / "patch.safetensors";
  int64_t changed = 0;
  Tuned() {
    after.at(0, 4) = -1;
    after.at(7, 0) = 0.5f;
    after.at(7, 3) = 2;
    changed = write_row_patch(path, before.read(), after.read());
  }
};

TEST(RowPatch, HoldsTheChangedRowsAndTurnsOneTableIntoTheOther) {
  const Tuned tuned;
  EXPECT_EQ(tuned.changed, 2);
  const SafetensorsReader file(tuned.path);
  EXPECT_EQ(file.find("row")->shape, (std::vector<int64_t>{2}));
  EXPECT_EQ(file.find("values")->shape, (std::vector<int64_t>{2, kWidth}));
  Values table;
  EXPECT_EQ(apply_row_patch(tuned.path, table.write()), 2);
  EXPECT_EQ(table.value, tuned.after.value);
}

TEST(RowPatch, AppliedTwiceIsAppliedOnce) {
  const Tuned tuned;
  Values table;
  apply_row_patch(tuned.path, table.write());
  EXPECT_EQ(apply_row_patch(tuned.path, table.write()), 0);
  EXPECT_EQ(table.value, tuned.after.value);
}

TEST(RowPatch, RowsAreComparedByTheirBits) {
  const TemporaryFolder folder;
  Values before, after;
  before.at(3, 1) = 0.0f;
  after.at(3, 1) = -0.0f;
  EXPECT_EQ(write_row_patch(folder / "patch", before.read(), after.read()), 1);
}

TEST(RowPatch, EqualTablesGiveAnEmptyPatch) {
  const TemporaryFolder folder;
  Values table;
  EXPECT_EQ(write_row_patch(folder / "patch", table.read(), table.read()), 0);
  EXPECT_EQ(apply_row_patch(folder / "patch", table.write()), 0);
}

TEST(RowPatch, AnotherTableIsRefusedAndKeepsItsRows) {
  const Tuned tuned;
  Values other;
  other.at(5, 5 - 1) = 77;
  const std::vector<float> kept = other.value;
  expect_error(ExitCode::input, "memory must be the table the patch was made from, got other rows",
               [&] { apply_row_patch(tuned.path, other.write()); });
  expect_error(ExitCode::input, "the patch must be for facts F32 [9, 5], got memory F32 [9, 5]",
               [&] { apply_row_patch(tuned.path, other.write("facts")); });
  EXPECT_EQ(other.value, kept);
  Values smaller;
  const RowBytes<const std::byte> half = {"memory", DType::F32, kRows - 1, kWidth,
                                          std::as_bytes(std::span(smaller.value)).first((kRows - 1) * kWidth * 4)};
  expect_error(ExitCode::usage, "both tables must be memory F32 [9, 5]",
               [&] { write_row_patch(tuned.path, tuned.before.read(), half); });
}

TEST(RowPatch, ABrokenFileIsRefusedAndTheTableKeepsItsRows) {
  const Tuned tuned;
  const SafetensorsReader file(tuned.path);
  const auto values = file.bytes("values");
  Values table;
  const std::vector<float> kept = table.value;
  const auto refused = [&](const std::string& part, const std::vector<int64_t>& row, int64_t width,
                           SafetensorsMetadata facts) {
    const auto bytes = values.first(row.size() * static_cast<size_t>(width) * 4);
    write_safetensors(tuned.folder / "broken",
                      {{"values", DType::F32, {static_cast<int64_t>(row.size()), width}, bytes},
                       {"row", DType::I64, {static_cast<int64_t>(row.size())}, std::as_bytes(std::span(row))}},
                      facts);
    expect_error(ExitCode::input, part, [&] { apply_row_patch(tuned.folder / "broken", table.write()); });
  };
  const SafetensorsMetadata facts = file.metadata();
  refused("rows must ascend within 0 .. 8, got 9", {0, 9}, kWidth, facts);
  refused("rows must ascend within 0 .. 8, got 0", {7, 0}, kWidth, facts);
  refused("rows must ascend within 0 .. 8, got 7", {7, 7}, kWidth, facts);
  refused("rows must ascend within 0 .. 8, got -1", {-1, 7}, kWidth, facts);
  refused("values [U, D]", {0, 7}, kWidth - 1, facts);
  SafetensorsMetadata fewer = facts;
  fewer.erase("before");
  refused("a row patch must name its before, got none", {0, 7}, kWidth, fewer);
  refused("a row patch must name its format, got none", {0, 7}, kWidth, {});
  EXPECT_EQ(table.value, kept);
}

}  // namespace
}  // namespace loci
