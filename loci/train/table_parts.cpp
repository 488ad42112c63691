#include "loci/train/table_parts.h"

#include <algorithm>
#include <limits>
#include <string_view>

#include "loci/base/check.h"

namespace loci {
namespace {

constexpr std::string_view kTablePrefix = "table.";
constexpr std::string_view kFileSuffix = ".safetensors";

// What is no whole number becomes -1, which no check lets through.
int64_t count_of(const nlohmann::json& number) {
  return number.is_number_integer() ? number.get<int64_t>() : -1;
}

TablePart part_of(const nlohmann::json& entry) {
  TablePart part{.base = entry.at("base"), .deltas = {}, .first = 0, .rows = 0};
  for (const nlohmann::json& delta : entry.at("deltas")) {
    part.deltas.push_back({delta.at("file"), delta.at("rows").get<int64_t>()});
  }
  return part;
}

// Before anything is made of their rows.
void check_parts(const CheckpointReader& checkpoint, const std::string& table, const std::vector<TablePart>& parts,
                 int64_t rows) {
  const std::string who = (checkpoint.path() / "manifest.json").string();
  if (parts.empty()) fail(ExitCode::input, who, fmt::format("table {} must have parts", table), "none");
  int64_t end = 0;
  for (const TablePart& part : parts) {
    if (part.first != end) {
      fail(ExitCode::input, who, fmt::format("{} must begin at row {}, without holes or overlaps", part.base, end),
           fmt::to_string(part.first));
    }
    if (part.rows < 1 || part.rows > std::numeric_limits<int64_t>::max() - end) {
      fail(ExitCode::input, who, fmt::format("{} must have a number of rows from 1 on", part.base),
           fmt::to_string(part.rows));
    }
    end += part.rows;
  }
  if (rows != kAnyRows && end != rows) {
    fail(ExitCode::input, who, fmt::format("the parts of table {} must hold {} rows", table, rows),
         fmt::to_string(end));
  }
}

}  // namespace

std::string TablePart::beside(const std::string& kind) const {
  return fmt::format("{}.{}", kind, base.substr(kTablePrefix.size()));
}

std::string TablePart::delta_file(int64_t step) const {
  return fmt::format("{}.delta-{}{}", base.substr(0, base.size() - kFileSuffix.size()), step, kFileSuffix);
}

nlohmann::json TablePart::to_json(bool alone) const {
  nlohmann::json entry = {{"base", base}, {"deltas", nlohmann::json::array()}};
  for (const TableDelta& delta : deltas) entry["deltas"].push_back({{"file", delta.file}, {"rows", delta.rows}});
  if (!alone) entry.update({{"first", first}, {"rows", rows}});
  return entry;
}

std::string base_file(const std::string& table, int64_t part, int64_t parts) {
  const std::string place = parts == 1 ? "" : fmt::format(".part-{}-of-{}", part + 1, parts);
  return fmt::format("{}{}{}{}", kTablePrefix, table, place, kFileSuffix);
}

nlohmann::json entry_of_parts(const std::string& table, const std::vector<nlohmann::json>& parts) {
  if (parts.size() == 1) return parts.front();
  nlohmann::json entry = {{"parts", nlohmann::json::array()}};
  int64_t end = 0;
  for (const nlohmann::json& part : parts) {
    if (part.is_null()) continue;
    if (part.at("first") != end) {
      fail(ExitCode::bug, "table " + table, fmt::format("rows of a rank must begin at {}", end),
           part.at("first").dump());
    }
    end += part.at("rows").get<int64_t>();
    entry["parts"].push_back(part);
  }
  return entry;
}

std::vector<TablePart> parts_of_entry(const nlohmann::json& entry, int64_t rows) {
  std::vector<TablePart> parts;
  if (!entry.contains("parts")) {
    parts.push_back(part_of(entry));
    parts.front().rows = rows;
    return parts;
  }
  for (const nlohmann::json& each : entry.at("parts")) {
    TablePart part = part_of(each);
    part.first = count_of(each.at("first"));
    part.rows = count_of(each.at("rows"));
    parts.push_back(std::move(part));
  }
  return parts;
}

std::vector<TablePart> parts_of(const CheckpointReader& checkpoint, const std::string& table, int64_t rows) {
  bool alone = true;
  const auto parts = checkpoint.read("the manifest must list the files of tables", [&](const nlohmann::json& manifest) {
    const auto& tables = manifest.at("tables").get_ref<const nlohmann::json::object_t&>();
    const auto entry = tables.find(table);
    if (entry == tables.end()) return std::vector{TablePart{base_file(table), {}, 0, rows}};
    alone = !entry->second.contains("parts");
    return parts_of_entry(entry->second, rows);
  });
  for (const TablePart& part : parts) {
    if (!part.base.starts_with(kTablePrefix) || !part.base.ends_with(kFileSuffix)) {
      fail(ExitCode::input, (checkpoint.path() / "manifest.json").string(),
           fmt::format("the base of table {} must be a file table.*.safetensors", table), part.base);
    }
  }
  if (!alone) check_parts(checkpoint, table, parts, rows);
  return parts;
}

std::vector<std::string> tables_in(const CheckpointReader& checkpoint) {
  return checkpoint.read("the manifest must list the files of tables", [](const nlohmann::json& manifest) {
    std::vector<std::string> names;
    for (const auto& [name, entry] : manifest.at("tables").get_ref<const nlohmann::json::object_t&>()) {
      names.push_back(name);
    }
    return names;
  });
}

bool has_table(const CheckpointReader& checkpoint, const std::string& table) {
  if (checkpoint.has(base_file(table))) return true;
  const std::vector<std::string> names = tables_in(checkpoint);
  return std::find(names.begin(), names.end(), table) != names.end();
}

}  // namespace loci
