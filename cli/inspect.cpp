// loci inspect: what a run, a checkpoint or a safetensors file holds.
#include <fmt/ranges.h>
#include <sys/stat.h>

#include <nlohmann/json.hpp>

#include <cstring>
#include <filesystem>
#include <memory>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "cli/output.h"
#include "cli/run_argument.h"
#include "cli/verbs.h"
#include "loci/base/paths.h"
#include "loci/base/progress.h"
#include "loci/table/safetensors.h"
#include "loci/train/table_parts.h"
#include "loci/train/text_table.h"

namespace loci::cli {
namespace {

namespace fs = std::filesystem;

nlohmann::json tensor_list(const SafetensorsReader& file) {
  nlohmann::json list = nlohmann::json::array();
  for (const SafetensorsEntry& entry : file.tensors()) {
    list.push_back({{"name", entry.name},
                    {"dtype", entry.dtype_name},
                    {"shape", entry.shape},
                    {"bytes", entry.end - entry.begin}});
  }
  return list;
}

nlohmann::json inspect_file(const fs::path& path) {
  const SafetensorsReader file(path);
  nlohmann::json facts = {{"file", path.string()}, {"bytes", file_bytes(path)}, {"tensors", tensor_list(file)}};
  facts["metadata"] = nlohmann::json::object();
  for (const auto& [key, value] : file.metadata()) facts["metadata"][key] = value;
  return facts;
}

// The bytes that a file takes on the disk: fewer than its size where it has holes.
int64_t disk_bytes(const fs::path& path) {
  struct stat status = {};
  return stat(path.c_str(), &status) == 0 ? status.st_blocks * 512 : 0;
}

// How many rows the deltas of a table change together.
size_t changed_rows(const std::vector<fs::path>& deltas) {
  std::set<int64_t> changed;
  for (const fs::path& path : deltas) {
    const SafetensorsReader file(path);
    const std::span<const std::byte> rows = file.bytes("row");
    for (size_t at = 0; at + sizeof(int64_t) <= rows.size(); at += sizeof(int64_t)) {
      int64_t row = 0;
      std::memcpy(&row, rows.data() + at, sizeof(row));
      changed.insert(row);
    }
  }
  return changed.size();
}

// Base and deltas of a part of a table, with the rows that changed since the base.
nlohmann::json part_facts(const CheckpointReader& checkpoint, const TablePart& part) {
  const fs::path base = checkpoint.file(part.base);
  nlohmann::json facts = {{"base", part.base},
                          {"base_bytes", file_bytes(base)},
                          {"base_disk_bytes", disk_bytes(base)},
                          {"deltas", nlohmann::json::array()}};
  std::vector<fs::path> deltas;
  for (const TableDelta& delta : part.deltas) {
    deltas.push_back(checkpoint.file(delta.file));
    facts["deltas"].push_back({{"file", delta.file}, {"rows", delta.rows}, {"bytes", file_bytes(deltas.back())}});
  }
  facts["rows_changed"] = changed_rows(deltas);
  return facts;
}

// A table of several parts has a list of them, and the sums.
nlohmann::json table_facts(const CheckpointReader& checkpoint, const std::string& table) {
  const std::vector<TablePart> parts = parts_of(checkpoint, table, kAnyRows);
  nlohmann::json all = {{"name", table}};
  if (parts.size() == 1 && parts.front().rows == kAnyRows) {
    all.update(part_facts(checkpoint, parts.front()));
    return all;
  }
  all.update({{"parts", nlohmann::json::array()}, {"base_bytes", 0}, {"base_disk_bytes", 0}, {"rows_changed", 0}});
  all["deltas"] = nlohmann::json::array();
  for (const TablePart& part : parts) {
    nlohmann::json facts = part_facts(checkpoint, part);
    for (const char* sum : {"base_bytes", "base_disk_bytes", "rows_changed"}) {
      all[sum] = all[sum].get<int64_t>() + facts[sum].get<int64_t>();
    }
    for (const nlohmann::json& delta : facts["deltas"]) all["deltas"].push_back(delta);
    facts.update({{"first", part.first}, {"rows", part.rows}});
    all["parts"].push_back(facts);
  }
  return all;
}

nlohmann::json inspect_run(const fs::path& path) {
  const RunArgument run = find_run(path);
  const RunSize size = run.config.size();
  nlohmann::json facts = {{"run", run.folder.string()},
                          {"checkpoint", run.checkpoint.path().string()},
                          {"task", run.config.task},
                          {"arm", run.config.arm},
                          {"seed", run.config.seed},
                          {"parameters_dense", size.parameters_dense},
                          {"parameters_table", size.parameters_table},
                          {"manifest", run.checkpoint.manifest()}};
  facts["tables"] = nlohmann::json::array();
  for (const std::string& table : tables_in(run.checkpoint)) {
    facts["tables"].push_back(table_facts(run.checkpoint, table));
  }
  facts["files"] = nlohmann::json::array();
  for (const fs::path& name : entries_of(run.checkpoint.path())) {
    facts["files"].push_back(name.extension() == ".safetensors"
                                 ? inspect_file(name)
                                 : nlohmann::json{{"file", name.string()}, {"bytes", file_bytes(name)}});
  }
  return facts;
}

std::string file_text(const nlohmann::json& file) {
  std::string text = fmt::format("\n{}  {}\n", printable(fs::path(file["file"].get<std::string>()).filename().string()),
                                 format_bytes(file["bytes"].get<double>()));
  if (!file.contains("tensors")) return text;
  TextTable table({"  tensor", "dtype", "shape", "size"});
  for (const nlohmann::json& tensor : file["tensors"]) {
    table.add({"  " + printable(tensor["name"].get<std::string>()), printable(tensor["dtype"].get<std::string>()),
               fmt::format("[{}]", fmt::join(tensor["shape"].get<std::vector<int64_t>>(), ", ")),
               format_bytes(tensor["bytes"].get<double>())});
  }
  text += table.text();
  for (const auto& [key, value] : file["metadata"].items()) {
    text += fmt::format("  {} = {}\n", printable(key), printable(value.get<std::string>()));
  }
  return text;
}

std::string run_text(const nlohmann::json& facts) {
  std::string text = fmt::format(
      "run         {}\ncheckpoint  {}\ntask        {}, arm {}, seed {}\nparameters  {} dense, {} in tables\n",
      printable(facts["run"].get<std::string>()), printable(facts["checkpoint"].get<std::string>()),
      facts["task"].get<std::string>(), facts["arm"].get<std::string>(), facts["seed"].get<int64_t>(),
      format_count(facts["parameters_dense"].get<double>()), format_count(facts["parameters_table"].get<double>()));
  for (const nlohmann::json& table : facts["tables"]) {
    const size_t parts = table.contains("parts") ? table["parts"].size() : 1;
    text += fmt::format("table       {}: {}base {} ({} on disk), {} deltas, {} rows changed since the base\n",
                        printable(table["name"].get<std::string>()), parts == 1 ? "" : fmt::format("{} parts, ", parts),
                        format_bytes(table["base_bytes"].get<double>()),
                        format_bytes(table["base_disk_bytes"].get<double>()), table["deltas"].size(),
                        table["rows_changed"].get<int64_t>());
  }
  for (const nlohmann::json& file : facts["files"]) text += file_text(file);
  return text;
}

}  // namespace

void add_inspect(CLI::App& program, Action& action) {
  auto* verb = program.add_subcommand("inspect", "Show what a run, a checkpoint or a safetensors file holds");
  auto path = std::make_shared<std::string>();
  auto json = std::make_shared<bool>(false);
  verb->add_option("path", *path, "A run directory, a step-N folder, or a .safetensors file")->required();
  verb->add_flag("--json", *json, "Print JSON");
  verb->footer(
      "Examples:\n  loci inspect out/memory/seed-0\n"
      "  loci inspect out/memory/seed-0/step-100/model.safetensors --json");
  verb->callback([path, json, &action] {
    action = [path, json] {
      const bool folder = kind_of(*path) == PathKind::folder;
      const nlohmann::json facts = folder ? inspect_run(*path) : inspect_file(*path);
      if (*json) return print_json(facts, 2);
      print(folder ? run_text(facts) : file_text(facts));
    };
  });
}

}  // namespace loci::cli
