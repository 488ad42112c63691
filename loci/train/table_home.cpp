#include "loci/train/table_home.h"

#include <utility>
#include <vector>

#include "loci/base/check.h"
#include "loci/base/paths.h"
#include "loci/base/progress.h"
#include "loci/table/local_table.h"
#include "loci/table/mapped_table.h"
#include "loci/table/sharded_table.h"
#include "loci/train/table_checkpoint.h"

namespace loci {

namespace fs = std::filesystem;

namespace {

[[noreturn]] void refuse_parts(const CheckpointReader& checkpoint, const TableSpec& spec, size_t parts) {
  fail(
      ExitCode::resources, checkpoint.path().string(),
      fmt::format("table {} must be in one file to be mapped, or fit into half of the memory (loci convert writes one)",
                  spec.name),
      fmt::format("{} parts", parts));
}

std::shared_ptr<RowStore> rows_for_training(const TableSpec& spec, TableParts parts, const Ranks& ranks,
                                            const fs::path& folder) {
  const bool by_rows = parts == TableParts::rows;
  const RowRange range = by_rows ? ShardedTable::equal_part(spec.rows, ranks) : RowRange{0, spec.rows};
  const ColumnRange columns = by_rows ? spec.width : ShardedTable::equal_columns(spec.name, spec.width, ranks);
  if (spec.home == TableHome::memory) {
    return std::make_shared<LocalRows>(spec.name, range, columns, LocalTableOptions{.dtype = spec.dtype});
  }
  make_folders(folder);
  return std::make_shared<MappedRows>(spec.name, range, columns, spec.dtype, folder);
}

}  // namespace

TableMaker training_tables(fs::path folder, bool loaded, const Ranks& ranks, bool row_moment) {
  return [folder = std::move(folder), loaded, ranks, row_moment](const TableSpec& spec) -> TablePtr {
    const TableReads reads = {.reads = spec.reads, .rows = spec.rows, .width = spec.width, .row_moment = row_moment};
    const auto rows = rows_for_training(spec, parts_of(spec.shard, ranks.size, reads), ranks, folder);
    if (!loaded) start_rows(*rows, spec);
    if (ranks.size == 1) return std::make_shared<HeldTable>(rows);
    return std::make_shared<ShardedTable>(ranks, rows);
  };
}

TableMaker serving_tables(CheckpointReader checkpoint, const Ranks& ranks) {
  return [checkpoint = std::move(checkpoint), ranks](const TableSpec& spec) -> TablePtr {
    if (ranks.size > 1) {
      const RowRange part = ShardedTable::equal_part(spec.rows, ranks);
      const LocalTableOptions options{.dtype = spec.dtype};
      return std::make_shared<ShardedTable>(ranks, std::make_shared<LocalRows>(spec.name, part, spec.width, options));
    }
    const int64_t elements = checked_product("table " + spec.name, "rows x width", spec.rows, spec.width);
    const int64_t bytes =
        checked_product("table " + spec.name, "bytes", elements, static_cast<int64_t>(c10::elementSize(spec.dtype)));
    if (!is_served_from_file(spec.home, spec.dtype, bytes)) {
      return std::make_shared<LocalTable>(spec.name, spec.rows, spec.width, LocalTableOptions{.dtype = spec.dtype});
    }
    const std::vector<TablePart> parts = parts_of(checkpoint, spec.name, spec.rows);
    if (parts.size() == 1) {
      return serve_table(checkpoint.file(parts.front().base), spec.name, spec.rows, spec.width, spec.dtype);
    }
    if (spec.home == TableHome::mapped && bytes > available_bytes() / 2) refuse_parts(checkpoint, spec, parts.size());
    return std::make_shared<LocalTable>(spec.name, spec.rows, spec.width, LocalTableOptions{.dtype = spec.dtype});
  };
}

bool is_served_from_file(TableHome home, at::ScalarType dtype, int64_t bytes) {
  return home == TableHome::mapped || dtype == at::kChar || bytes > available_bytes() / 2;
}

WorkFolder::WorkFolder(fs::path path) : path_(std::move(path)) {
  const std::error_code error = remove_working_folder(path_);
  if (error) fail_path(path_, "what a killed process left must be removable", error.value());
}

WorkFolder::~WorkFolder() {
  (void)remove_working_folder(path_);
}

}  // namespace loci
