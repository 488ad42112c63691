#include "loci/train/table_home.h"

#include <utility>
#include <vector>

#include "loci/base/check.h"
#include "loci/base/paths.h"
#include "loci/base/progress.h"
#include "loci/table/local_table.h"
#include "loci/table/mapped_table.h"
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

}  // namespace

TableMaker training_tables(fs::path folder, bool loaded) {
  return [folder = std::move(folder), loaded](const TableSpec& spec) -> TablePtr {
    TablePtr table;
    if (spec.home == TableHome::mapped) {
      make_folders(folder);
      table = std::make_shared<MappedTable>(spec.name, spec.rows, spec.width, spec.dtype, folder);
    } else {
      table = std::make_shared<LocalTable>(spec.name, spec.rows, spec.width, LocalTableOptions{.dtype = spec.dtype});
    }
    if (!loaded) start_rows(table->store(), spec);
    return table;
  };
}

TableMaker serving_tables(CheckpointReader checkpoint) {
  return [checkpoint = std::move(checkpoint)](const TableSpec& spec) -> TablePtr {
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
