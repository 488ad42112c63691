// Legend: R rows of a store, D width, U rows of a delta.
#include "loci/train/table_checkpoint.h"

#include <ATen/ops/empty.h>

#include <algorithm>
#include <cstring>
#include <iterator>
#include <set>
#include <utility>

#include "loci/base/check.h"
#include "loci/table/mapped_table.h"

namespace loci {
namespace {

constexpr const char* kRow = "row";
// Files beside a base.
constexpr const char* kOptimizer = "optimizer";
constexpr const char* kCounters = "counters";
constexpr size_t kGatherBytes = size_t{4} << 20;
constexpr int64_t kSmallBytes = int64_t{1} << 20;  // a smaller table is always written as a new base

// What a base holds: the rows, and their scale where they are int8. The scales must be aligned: they precede rows whose
// size is no multiple of four bytes.
NamedTensors base_parts(const RowStore& rows, const std::string& name) {
  NamedTensors tensors = {{name, rows.values()}};
  if (rows.scale()) tensors.emplace_back(name + ".scale", *rows.scale());
  if (rows.values().numel() % 4 != 0) std::reverse(tensors.begin(), tensors.end());
  return tensors;
}

// What a delta holds for each of its rows.
NamedTensors delta_parts(const RowStore& rows, const RowOptimizer* optimizer, const NamedTensors& counters) {
  NamedTensors parts = {{"values", rows.values()}};
  if (optimizer != nullptr) {
    for (const auto& part : optimizer->row_state()) parts.push_back(part);
  }
  parts.insert(parts.end(), counters.begin(), counters.end());
  return parts;
}

int64_t row_bytes(const at::Tensor& tensor) {
  return static_cast<int64_t>(tensor.nbytes()) / std::max<int64_t>(1, tensor.size(0));
}

void write_delta(const std::filesystem::path& path, const std::string& table, const NamedTensors& parts,
                 const std::vector<int64_t>& changed) {
  std::vector<SafetensorsSpec> specs = {{kRow, DType::I64, {std::ssize(changed)}}};
  for (const auto& [name, tensor] : parts) {
    std::vector<int64_t> shape = tensor.sizes().vec();
    shape[0] = std::ssize(changed);
    specs.push_back({name, dtype_of_tensor(tensor), shape});
  }
  SafetensorsWriter file(path, specs, {{"table", table}});
  file.append(std::as_bytes(std::span(changed)));
  std::vector<std::byte> gathered;
  for (const auto& [name, tensor] : parts) {
    const auto bytes = static_cast<size_t>(row_bytes(tensor));
    const auto* from = static_cast<const std::byte*>(tensor.const_data_ptr());
    const size_t at_once = std::max<size_t>(1, kGatherBytes / bytes);
    for (size_t begin = 0; begin < changed.size(); begin += at_once) {
      const size_t count = std::min(at_once, changed.size() - begin);
      gathered.resize(count * bytes);
      for (size_t i = 0; i < count; ++i) {
        std::memcpy(gathered.data() + i * bytes, from + static_cast<size_t>(changed[begin + i]) * bytes, bytes);
      }
      file.append(gathered);
    }
  }
  file.commit();
}

// The part of the rows here, without deltas yet.
TablePart part_here(const RowStore& rows, const Ranks& ranks) {
  return {base_file(rows.name(), ranks.rank, ranks.size), {}, rows.first_row(), rows.rows_here()};
}

// The same rows in an earlier checkpoint; nothing where it has them in other parts.
std::optional<TablePart> part_before(const TablePart& here, const std::string& table, const CheckpointFiles& before) {
  if (!before.manifest.contains("tables") || !before.manifest["tables"].contains(table)) return std::nullopt;
  for (TablePart& part : parts_of_entry(before.manifest["tables"][table], here.rows)) {
    if (part.base == here.base && part.first == here.first && part.rows == here.rows) return std::move(part);
  }
  return std::nullopt;
}

// Takes base and deltas of an earlier checkpoint. False where that cannot be.
bool link_part(CheckpointPart& writer, const CheckpointFiles& before, const TablePart& part, bool counters) {
  std::vector<std::string> names = {part.base, part.beside(kOptimizer)};
  if (counters) names.push_back(part.beside(kCounters));
  for (const TableDelta& delta : part.deltas) names.push_back(delta.file);
  return writer.link(before, names);
}

// Writes what changed since `before`. Returns the part, or nothing where a new base is due.
std::optional<TablePart> save_changes(CheckpointPart& writer, int64_t step, const RowOptimizer& optimizer,
                                      const RowCounters& counters, const CheckpointFiles& before, const Ranks& ranks) {
  RowStore& rows = optimizer.rows();
  const RowMarks& marks = rows.changed_rows();
  if (rows.bytes() < kSmallBytes || marks.all()) return std::nullopt;
  std::optional<TablePart> part = part_before(part_here(rows, ranks), rows.name(), before);
  if (!part) return std::nullopt;
  // A row may be read and counted without being written: frozen, or with a weight of 0.
  const std::vector<int64_t> written = marks.rows();
  std::vector<int64_t> changed;
  std::set_union(written.begin(), written.end(), counters.changed.begin(), counters.changed.end(),
                 std::back_inserter(changed));
  int64_t in_deltas = std::ssize(changed);
  for (const TableDelta& delta : part->deltas) in_deltas += delta.rows;
  // Rows of deltas are as long as those of the base, so rows stand for bytes.
  if (in_deltas > rows.rows_here() / 2) return std::nullopt;
  if (!link_part(writer, before, *part, !counters.tensors.empty())) return std::nullopt;
  if (!changed.empty()) {
    const std::string name = part->delta_file(step);
    write_delta(writer.file(name), rows.name(), delta_parts(rows, &optimizer, counters.tensors), changed);
    part->deltas.push_back({name, std::ssize(changed)});
  }
  return part;
}

// The rows of a delta, checked: ascending and within its part.
std::span<const int64_t> delta_rows(const SafetensorsReader& file, int64_t part_rows) {
  const SafetensorsEntry* entry = file.find(kRow);
  if (entry == nullptr || entry->dtype != DType::I64 || entry->shape.size() != 1 || entry->begin % 8 != 0) {
    fail(ExitCode::input, file.path().string(), "a delta must hold row I64 [U]", "none such");
  }
  const std::span<const int64_t> row(reinterpret_cast<const int64_t*>(file.bytes(*entry).data()),
                                     static_cast<size_t>(entry->shape[0]));
  for (size_t i = 0; i < row.size(); ++i) {
    if (row[i] < (i == 0 ? 0 : row[i - 1] + 1) || row[i] >= part_rows) {
      fail(ExitCode::input, file.path().string(), fmt::format("rows must ascend within 0 .. {}", part_rows - 1),
           fmt::to_string(row[i]));
    }
  }
  return row;
}

// Tensors of a table that are copied from a checkpoint, and which of its rows and columns they take.
struct LoadedRows {
  NamedTensors tensors;
  RowCopy copy;
  std::optional<ColumnRange> columns = std::nullopt;  // of tensors [R, D]
};

// Calls use(numbers of the rows in the tensors, their place in the delta) for those rows of a delta that `copy` has.
template <class Use>
void with_rows_of_delta(std::span<const int64_t> row, const RowCopy& copy, const Use& use) {
  const auto begin = static_cast<size_t>(std::lower_bound(row.begin(), row.end(), copy.from) - row.begin());
  const auto end = static_cast<size_t>(std::lower_bound(row.begin(), row.end(), copy.from + copy.count) - row.begin());
  if (begin == end) return;
  at::Tensor here = at::empty({static_cast<int64_t>(end - begin)}, at::kLong);
  auto* const number = here.mutable_data_ptr<int64_t>();
  for (size_t i = begin; i < end; ++i) number[i - begin] = row[i] - copy.from + copy.to;
  use(here, begin);
}

void check_delta(const SafetensorsReader& file, const LoadedRows& loaded, int64_t delta_rows) {
  for (const auto& [name, tensor] : loaded.tensors) {
    const SafetensorsEntry* entry = file.find(name);
    if (entry == nullptr || entry->dtype != dtype_of_tensor(tensor) ||
        entry->shape != RowSlice(tensor, loaded.columns).shape(delta_rows)) {
      fail(ExitCode::input, file.path().string(),
           fmt::format("a delta must hold {} of the table's type and width", name),
           entry == nullptr ? "none" : "another");
    }
  }
}

void copy_from_delta(const SafetensorsReader& file, const LoadedRows& loaded, const at::Tensor& here, size_t begin) {
  const auto* const number = here.const_data_ptr<int64_t>();
  for (const auto& [name, tensor] : loaded.tensors) {
    const RowSlice slice(tensor, loaded.columns);
    const std::byte* from = file.bytes(name).data() + begin * slice.file_bytes + slice.first;
    auto* to = static_cast<std::byte*>(tensor.mutable_data_ptr());
    for (int64_t i = 0; i < here.size(0); ++i, from += slice.file_bytes) {
      std::memcpy(to + static_cast<size_t>(number[i]) * slice.bytes, from, slice.bytes);
    }
    tensor.unsafeGetTensorImpl()->bump_version();
  }
}

// Copies those rows of a delta of `part_rows` rows that are wanted: `rows` is the store of `values`.
void apply_delta(const std::filesystem::path& path, int64_t part_rows, RowStore& rows, const LoadedRows& values,
                 const LoadedRows& counters) {
  const SafetensorsReader file(path);
  const std::span<const int64_t> row = delta_rows(file, part_rows);
  check_delta(file, values, std::ssize(row));
  check_delta(file, counters, std::ssize(row));
  with_rows_of_delta(row, values.copy, [&](const at::Tensor& here, size_t begin) {
    rows.write_rows(here, [&] { copy_from_delta(file, values, here, begin); });
  });
  with_rows_of_delta(row, counters.copy,
                     [&](const at::Tensor& here, size_t begin) { copy_from_delta(file, counters, here, begin); });
}

// Those rows of a part that are among `rows`, counted from the first of these.
RowCopy overlap(const TablePart& part, const RowRange& rows) {
  const int64_t begin = std::max(part.first, rows.first);
  const int64_t end = std::min(part.first + part.rows, rows.first + rows.count);
  return {begin - part.first, begin - rows.first, std::max<int64_t>(0, end - begin)};
}

std::optional<ColumnRange> columns_of(const RowStore& rows) {
  return rows.columns().whole() ? std::nullopt : std::optional(rows.columns());
}

}  // namespace

nlohmann::json save_table(CheckpointPart& writer, int64_t step, const RowOptimizer& optimizer,
                          const std::optional<CheckpointFiles>& before, const RowCounters& counters,
                          const Ranks& ranks) {
  const RowStore& rows = optimizer.rows();
  const bool alone = ranks.size == 1;
  if (!alone && rows.rows_here() == 0) return nullptr;
  for (const auto& [name, tensor] : counters.tensors) {
    if (tensor.size(0) == rows.rows_here()) continue;
    fail(ExitCode::bug, "table " + rows.name(),
         fmt::format("counters {} must be of its {} rows", name, rows.rows_here()), fmt::to_string(tensor.size(0)));
  }
  if (before) {
    const auto changed = save_changes(writer, step, optimizer, counters, *before, ranks);
    if (changed) return changed->to_json(alone);
  }
  const TablePart part = part_here(rows, ranks);
  write_tensors(writer.file(part.beside(kOptimizer)), optimizer.row_state());
  if (!counters.tensors.empty()) write_tensors(writer.file(part.beside(kCounters)), counters.tensors);
  write_tensors(writer.file(part.base), base_parts(rows, rows.name()));
  return part.to_json(alone);
}

nlohmann::json save_rows(CheckpointPart& writer, const RowStore& rows, const std::string& name) {
  const TablePart part = {base_file(name), {}, 0, rows.rows_here()};
  write_tensors(writer.file(part.base), base_parts(rows, name));
  return part.to_json(/*alone=*/true);
}

void load_table(const CheckpointReader& checkpoint, Table& table, const RowOptimizer* optimizer,
                const NamedTensors& counters) {
  RowStore& rows = table.store();
  const std::optional<ColumnRange> columns = columns_of(rows);
  for (const TablePart& part : parts_of(checkpoint, table.name(), table.rows())) {
    const LoadedRows values = {delta_parts(rows, optimizer, {}), overlap(part, {rows.first_row(), rows.rows_here()}),
                               columns};
    const LoadedRows counted = {counters, overlap(part, table.own_rows())};
    if (values.copy.count == 0 && part.rows > 0) continue;
    const auto load = [&](const std::string& file, const NamedTensors& targets) {
      load_rows(checkpoint.file(file), targets, part.rows, values.copy, columns);
    };
    if (rows.served_file() != checkpoint.file(part.base)) {
      rows.write_all([&] { load(part.base, base_parts(rows, rows.name())); });
    }
    if (optimizer != nullptr) load(part.beside(kOptimizer), optimizer->row_state());
    if (!counters.empty()) load_rows(checkpoint.file(part.beside(kCounters)), counters, part.rows, counted.copy);
    for (const TableDelta& delta : part.deltas) {
      apply_delta(checkpoint.file(delta.file), part.rows, rows, values, counted);
    }
  }
  rows.clear_changed_rows();
}

std::vector<std::shared_ptr<RowStore>> served_parts(const CheckpointReader& checkpoint, const std::string& table) {
  std::vector<std::shared_ptr<RowStore>> stores;
  for (const TablePart& part : parts_of(checkpoint, table, kAnyRows)) {
    const std::filesystem::path base = checkpoint.file(part.base);
    const auto rows = std::make_shared<ServedRows>(base, table);
    const int64_t count = rows->rows_here();
    if (part.rows != kAnyRows && part.rows != count) {
      fail(ExitCode::input, base.string(), fmt::format("the file must hold {} rows", part.rows), fmt::to_string(count));
    }
    for (const TableDelta& delta : part.deltas) {
      apply_delta(checkpoint.file(delta.file), count, *rows, {delta_parts(*rows, nullptr, {}), {0, 0, count}}, {});
    }
    stores.push_back(rows);
  }
  return stores;
}

void refuse_other_tables(const CheckpointReader& checkpoint, const std::vector<TablePtr>& tables) {
  std::set<std::string> known;
  for (const TablePtr& table : tables) {
    if (!has_table(checkpoint, table->name())) continue;
    for (const TablePart& part : parts_of(checkpoint, table->name(), table->rows())) {
      known.insert(part.base);
      for (const TableDelta& delta : part.deltas) known.insert(delta.file);
    }
  }
  for (const auto& [name, facts] : checkpoint.manifest().at("files").items()) {
    if (name.starts_with("table.") && known.count(name) == 0) {
      fail(ExitCode::input, checkpoint.path().string(), "every table must belong to the model", name);
    }
  }
}

}  // namespace loci
