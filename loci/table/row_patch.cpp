// Legend: N rows, D width, U changed rows.
#include "loci/table/row_patch.h"

#include <cstring>
#include <vector>

#include "loci/base/check.h"
#include "loci/base/checksum.h"

namespace loci {
namespace {

constexpr const char* kRow = "row";
constexpr const char* kValues = "values";

template <typename Byte>
std::string form_of(const RowBytes<Byte>& table) {
  return fmt::format("{} {} [{}, {}]", table.name, name_of(table.dtype), table.rows, table.width);
}

template <typename Byte>
void check_size(const RowBytes<Byte>& table) {
  const int64_t row = checked_product(table.name, "bytes of a row", table.width, size_of(table.dtype));
  const int64_t all = checked_product(table.name, "bytes of a table", table.rows, row);
  if (static_cast<int64_t>(table.bytes.size()) != all) {
    fail(ExitCode::bug, "row patch", fmt::format("{} must have {} bytes", form_of(table), all),
         std::to_string(table.bytes.size()));
  }
}

// What a patch says of the table that it is for.
SafetensorsMetadata facts_of(const RowBytes<const std::byte>& before, const RowBytes<const std::byte>& after) {
  return {{"format", "loci row patch 1"},
          {"table", form_of(before)},
          {"before", checksum(before.bytes)},
          {"after", checksum(after.bytes)}};
}

std::string fact(const SafetensorsReader& file, const std::string& name) {
  const auto found = file.metadata().find(name);
  if (found != file.metadata().end()) return found->second;
  fail(ExitCode::input, file.path().string(), fmt::format("a row patch must name its {}", name), "none");
}

// The rows of a patch, checked against the table before anything is written.
std::vector<int64_t> rows_of(const SafetensorsReader& file, const RowBytes<std::byte>& table) {
  const std::span<const std::byte> row = file.bytes(kRow), values = file.bytes(kValues);
  std::vector<int64_t> rows(row.size() / sizeof(int64_t));
  const std::vector<int64_t> row_shape = {static_cast<int64_t>(rows.size())};
  const std::vector<int64_t> value_shape = {row_shape[0], table.width};
  const SafetensorsEntry &row_entry = *file.find(kRow), &value_entry = *file.find(kValues);
  if (row_entry.dtype != DType::I64 || row_entry.shape != row_shape || value_entry.dtype != table.dtype ||
      value_entry.shape != value_shape) {
    fail(ExitCode::input, file.path().string(), "row must be I64 [U] and values [U, D] in the table's dtype", "others");
  }
  if (!rows.empty()) std::memcpy(rows.data(), row.data(), row.size());
  for (size_t u = 0; u < rows.size(); ++u) {
    if (rows[u] < 0 || rows[u] >= table.rows || (u > 0 && rows[u] <= rows[u - 1])) {
      fail(ExitCode::input, file.path().string(), fmt::format("rows must ascend within 0 .. {}", table.rows - 1),
           std::to_string(rows[u]));
    }
  }
  return rows;
}

}  // namespace

int64_t write_row_patch(const std::filesystem::path& path, const RowBytes<const std::byte>& before,
                        const RowBytes<const std::byte>& after) {
  check_size(before);
  check_size(after);
  if (form_of(before) != form_of(after)) {
    fail(ExitCode::usage, "row patch", fmt::format("both tables must be {}", form_of(before)), form_of(after));
  }
  const auto row_bytes = static_cast<size_t>(before.width * size_of(before.dtype));
  std::vector<int64_t> row;
  std::vector<std::byte> values;
  for (int64_t n = 0; n < before.rows; ++n) {
    const auto now = after.bytes.subspan(static_cast<size_t>(n) * row_bytes, row_bytes);
    if (std::memcmp(before.bytes.data() + static_cast<size_t>(n) * row_bytes, now.data(), row_bytes) == 0) continue;
    row.push_back(n);
    values.insert(values.end(), now.begin(), now.end());
  }
  const auto changed = static_cast<int64_t>(row.size());
  write_safetensors(path,
                    {{kValues, after.dtype, {changed, after.width}, values},
                     {kRow, DType::I64, {changed}, std::as_bytes(std::span<const int64_t>(row))}},
                    facts_of(before, after));
  return changed;
}

int64_t apply_row_patch(const std::filesystem::path& path, const RowBytes<std::byte>& table) {
  check_size(table);
  const SafetensorsReader file(path);
  if (fact(file, "format") != "loci row patch 1") {
    fail(ExitCode::input, path.string(), "the file must be a loci row patch 1", fact(file, "format"));
  }
  if (fact(file, "table") != form_of(table)) {
    fail(ExitCode::input, path.string(), fmt::format("the patch must be for {}", form_of(table)), fact(file, "table"));
  }
  const std::vector<int64_t> rows = rows_of(file, table);
  const std::string sum = checksum(table.bytes);
  if (sum == fact(file, "after")) return 0;
  if (sum != fact(file, "before")) {
    fail(ExitCode::input, path.string(), fmt::format("{} must be the table the patch was made from", table.name),
         "other rows");
  }
  const auto row_bytes = static_cast<size_t>(table.width * size_of(table.dtype));
  const std::byte* value = file.bytes(kValues).data();
  for (const int64_t row : rows) {
    std::memcpy(table.bytes.data() + static_cast<size_t>(row) * row_bytes, value, row_bytes);
    value += row_bytes;
  }
  return static_cast<int64_t>(rows.size());
}

}  // namespace loci
