// Legend: R rows of a store, D width, U rows of a delta.
#include "loci/train/table_checkpoint.h"

#include <ATen/ops/from_blob.h>

#include <algorithm>
#include <cstring>
#include <iterator>
#include <set>
#include <utility>

#include "loci/base/check.h"

namespace loci {
namespace {

constexpr const char* kRow = "row";
constexpr size_t kGatherBytes = size_t{4} << 20;
constexpr int64_t kSmallBytes = int64_t{1} << 20;  // a smaller table is always written as a new base

std::string state_file(const std::string& table) {
  return fmt::format("optimizer.{}.safetensors", table);
}

std::string counter_file(const std::string& table) {
  return fmt::format("counters.{}.safetensors", table);
}

std::string delta_file(const std::string& table, int64_t step) {
  return fmt::format("table.{}.delta-{}.safetensors", table, step);
}

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

// The names of a table's deltas.
std::vector<std::string> deltas_of(const CheckpointReader& checkpoint, const std::string& table) {
  return checkpoint.read("the manifest must list the deltas of tables", [&](const nlohmann::json& manifest) {
    std::vector<std::string> names;
    const auto& tables = manifest.at("tables").get_ref<const nlohmann::json::object_t&>();
    const auto entry = tables.find(table);
    if (entry == tables.end()) return names;
    for (const nlohmann::json& delta : entry->second.at("deltas")) names.push_back(delta.at("file"));
    return names;
  });
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

// The files of a table in a checkpoint, as they go into the next one.
class Chain {
 public:
  Chain(const std::string& table, bool counters, const CheckpointFiles& before) : before_(before) {
    names_ = {base_file(table), state_file(table)};
    if (counters) names_.push_back(counter_file(table));
    deltas = before.manifest.at("tables").at(table).at("deltas");
    for (const nlohmann::json& delta : deltas) {
      names_.push_back(delta.at("file"));
      rows += delta.at("rows").get<int64_t>();
    }
  }
  bool link_into(CheckpointWriter& writer) const { return writer.link(before_, names_); }

  int64_t rows = 0;  // in the deltas together
  nlohmann::json deltas;

 private:
  const CheckpointFiles& before_;
  std::vector<std::string> names_;
};

// Writes what changed since `before`. Returns the table's entry, or nothing where a new base is due.
std::optional<nlohmann::json> save_changes(CheckpointWriter& writer, int64_t step, const RowOptimizer& optimizer,
                                           const RowCounters& counters, const CheckpointFiles& before) {
  RowStore& rows = optimizer.rows();
  const RowMarks& marks = rows.changed_rows();
  const bool known = before.manifest.contains("tables") && before.manifest["tables"].contains(rows.name());
  if (rows.bytes() < kSmallBytes || marks.all() || !known) return std::nullopt;
  const Chain chain(rows.name(), !counters.tensors.empty(), before);
  // A row may be read and counted without being written: frozen, or with a weight of 0.
  const std::vector<int64_t> written = marks.rows();
  std::vector<int64_t> changed;
  std::set_union(written.begin(), written.end(), counters.changed.begin(), counters.changed.end(),
                 std::back_inserter(changed));
  // Rows of deltas are as long as those of the base, so rows stand for bytes.
  if (chain.rows + std::ssize(changed) > rows.rows_here() / 2) return std::nullopt;
  if (!chain.link_into(writer)) return std::nullopt;
  nlohmann::json deltas = chain.deltas;
  if (!changed.empty()) {
    const std::string name = delta_file(rows.name(), step);
    write_delta(writer.file(name), rows.name(), delta_parts(rows, &optimizer, counters.tensors), changed);
    deltas.push_back({{"file", name}, {"rows", changed.size()}});
  }
  return nlohmann::json{{"base", base_file(rows.name())}, {"deltas", deltas}};
}

// The rows of a delta, checked: ascending and within the table.
std::span<const int64_t> delta_rows(const SafetensorsReader& file, int64_t rows_here) {
  const SafetensorsEntry* entry = file.find(kRow);
  if (entry == nullptr || entry->dtype != DType::I64 || entry->shape.size() != 1 || entry->begin % 8 != 0) {
    fail(ExitCode::input, file.path().string(), "a delta must hold row I64 [U]", "none such");
  }
  const std::span<const int64_t> row(reinterpret_cast<const int64_t*>(file.bytes(*entry).data()),
                                     static_cast<size_t>(entry->shape[0]));
  for (size_t i = 0; i < row.size(); ++i) {
    if (row[i] < (i == 0 ? 0 : row[i - 1] + 1) || row[i] >= rows_here) {
      fail(ExitCode::input, file.path().string(), fmt::format("rows must ascend within 0 .. {}", rows_here - 1),
           fmt::to_string(row[i]));
    }
  }
  return row;
}

void apply_delta(const std::filesystem::path& path, RowStore& rows, const RowOptimizer* optimizer,
                 const NamedTensors& counters) {
  const SafetensorsReader file(path);
  const std::span<const int64_t> row = delta_rows(file, rows.rows_here());
  const NamedTensors parts = delta_parts(rows, optimizer, counters);
  for (const auto& [name, tensor] : parts) {
    const SafetensorsEntry* entry = file.find(name);
    std::vector<int64_t> shape = tensor.sizes().vec();
    shape[0] = std::ssize(row);
    if (entry == nullptr || entry->dtype != dtype_of_tensor(tensor) || entry->shape != shape) {
      fail(ExitCode::input, path.string(), fmt::format("a delta must hold {} of the table's type and width", name),
           entry == nullptr ? "none" : "another");
    }
  }
  const at::Tensor index = at::from_blob(const_cast<int64_t*>(row.data()), {std::ssize(row)}, at::kLong);
  rows.write_rows(index, [&] {
    for (const auto& [name, tensor] : parts) {
      const auto bytes = static_cast<size_t>(row_bytes(tensor));
      const std::byte* from = file.bytes(name).data();
      auto* to = static_cast<std::byte*>(tensor.mutable_data_ptr());
      for (size_t i = 0; i < row.size(); ++i) {
        std::memcpy(to + static_cast<size_t>(row[i]) * bytes, from + i * bytes, bytes);
      }
      tensor.unsafeGetTensorImpl()->bump_version();
    }
  });
}

}  // namespace

std::string base_file(const std::string& table) {
  return fmt::format("table.{}.safetensors", table);
}

nlohmann::json save_table(CheckpointWriter& writer, int64_t step, const RowOptimizer& optimizer,
                          const std::optional<CheckpointFiles>& before, const RowCounters& counters) {
  if (before) {
    if (auto entry = save_changes(writer, step, optimizer, counters, *before)) return *std::move(entry);
  }
  const RowStore& rows = optimizer.rows();
  write_tensors(writer.file(state_file(rows.name())), optimizer.row_state());
  if (!counters.tensors.empty()) write_tensors(writer.file(counter_file(rows.name())), counters.tensors);
  return save_rows(writer, rows, rows.name());
}

nlohmann::json save_rows(CheckpointWriter& writer, const RowStore& rows, const std::string& name) {
  write_tensors(writer.file(base_file(name)), base_parts(rows, name));
  return {{"base", base_file(name)}, {"deltas", nlohmann::json::array()}};
}

void load_table(const CheckpointReader& checkpoint, RowStore& rows, const RowOptimizer* optimizer,
                const NamedTensors& counters) {
  const std::filesystem::path base = checkpoint.file(base_file(rows.name()));
  if (rows.served_file() != base) rows.write_all([&] { load_tensors(base, base_parts(rows, rows.name())); });
  if (optimizer != nullptr) load_tensors(checkpoint.file(state_file(rows.name())), optimizer->row_state());
  if (!counters.empty()) load_tensors(checkpoint.file(counter_file(rows.name())), counters);
  for (const std::string& name : deltas_of(checkpoint, rows.name())) {
    apply_delta(checkpoint.file(name), rows, optimizer, counters);
  }
  rows.clear_changed_rows();
}

void refuse_other_tables(const CheckpointReader& checkpoint, const std::vector<TablePtr>& tables) {
  std::set<std::string> known;
  for (const TablePtr& table : tables) {
    known.insert(base_file(table->name()));
    for (const std::string& name : deltas_of(checkpoint, table->name())) known.insert(name);
  }
  for (const auto& [name, facts] : checkpoint.manifest().at("files").items()) {
    if (name.starts_with("table.") && known.count(name) == 0) {
      fail(ExitCode::input, checkpoint.path().string(), "every table must belong to the model", name);
    }
  }
}

}  // namespace loci
