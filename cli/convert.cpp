// loci convert: a run whose tables have smaller rows, or whose network has its signs in words, for serving.
//
// Legend: R rows, D width.
#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "cli/measure.h"
#include "cli/output.h"
#include "cli/run_argument.h"
#include "cli/verbs.h"
#include "loci/base/check.h"
#include "loci/base/durable_file.h"
#include "loci/base/paths.h"
#include "loci/base/stop_signal.h"
#include "loci/table/quantise.h"
#include "loci/tasks/all.h"
#include "loci/train/checkpoint.h"
#include "loci/train/table_checkpoint.h"
#include "loci/train/tensor_file.h"

namespace loci::cli {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kElementsAtOnce = int64_t{1} << 20;

struct ConvertArguments {
  std::string run;
  std::string table;  // or empty with `packed`
  bool packed = false;
  std::string out;
  std::string data;
  std::filesystem::path cache;
  bool json = false;
  bool quiet = false;
};

void check_conversion_goes_on() {
  StopSignal::check("stopped before the new run was whole; nothing was kept");
}

// A table in the files of a checkpoint.
struct ServedParts {
  ServedParts(const CheckpointReader& checkpoint, const std::string& name)
      : name(name), parts(served_parts(checkpoint, name)) {
    for (const auto& part : parts) {
      rows += part->rows_here();
      bytes += file_bytes(part->served_file());
    }
  }
  int64_t width() const { return parts.front()->width(); }

  std::string name;
  std::vector<std::shared_ptr<RowStore>> parts;
  int64_t rows = 0;
  int64_t bytes = 0;  // of the files
};

// Calls `take` with the rows of a table, some at a time.
template <typename Take>
void for_rows(const ServedParts& table, ProgressLine& progress, Take take) {
  const int64_t at_once = std::max<int64_t>(1, kElementsAtOnce / table.width());
  int64_t done = 0;
  for (const auto& part : table.parts) {
    const at::Tensor rows = part->values();
    for (int64_t begin = 0; begin < rows.size(0); begin += at_once) {
      check_conversion_goes_on();
      progress.show(fmt::format("writing {}: {} of {} rows", table.name,
                                format_count(static_cast<double>(done + begin)),
                                format_count(static_cast<double>(table.rows))));
      take(rows.narrow(0, begin, std::min(at_once, rows.size(0) - begin)));
    }
    done += rows.size(0);
  }
}

void append(SafetensorsWriter& file, const at::Tensor& tensor) {
  const at::Tensor plain = tensor.contiguous();
  file.append({static_cast<const std::byte*>(plain.const_data_ptr()), plain.nbytes()});
}

void write_bfloat16(const fs::path& path, const ServedParts& table, ProgressLine& progress) {
  SafetensorsWriter file(path, {{table.name, DType::BF16, {table.rows, table.width()}}});
  for_rows(table, progress, [&](const at::Tensor& rows) { append(file, rows.to(at::kBFloat16)); });
  file.commit();
}

// The scales must be aligned: they follow the rows, or precede rows whose size is no multiple of four bytes.
void write_int8(const fs::path& path, const ServedParts& table, ProgressLine& progress) {
  const SafetensorsSpec values = {table.name, DType::I8, {table.rows, table.width()}};
  const SafetensorsSpec scale = {table.name + ".scale", DType::F32, {table.rows}};
  const auto rows = [&](SafetensorsWriter& file) {
    for_rows(table, progress, [&](const at::Tensor& part) { append(file, quantise_rows(part).values); });
  };
  const auto scales = [&](SafetensorsWriter& file) {
    for_rows(table, progress, [&](const at::Tensor& part) { append(file, quantise_rows(part).scale); });
  };
  if (table.rows * table.width() % 4 == 0) {
    SafetensorsWriter file(path, {values, scale});
    rows(file);
    scales(file);
    file.commit();
  } else {
    SafetensorsWriter file(path, {scale, values});
    scales(file);
    rows(file);
    file.commit();
  }
}

// Files of the checkpoint that a conversion takes as they are: all but tables and what only training needs.
std::vector<std::string> files_to_keep(const nlohmann::json& manifest) {
  std::vector<std::string> kept;
  for (const auto& [name, facts] : manifest.at("files").items()) {
    if (!name.starts_with("table.") && !name.starts_with("optimizer.") && !name.starts_with("counters.") &&
        name != "task.safetensors") {
      kept.push_back(name);
    }
  }
  return kept;
}

void link_files(CheckpointWriter& writer, const CheckpointReader& checkpoint, const std::vector<std::string>& names) {
  if (writer.link(CheckpointFiles{checkpoint.path(), checkpoint.manifest()}, names)) return;
  fail(ExitCode::input, checkpoint.path().string(), "the checkpoint must stay whole", "a file that changed");
}

// The members of the new manifest: those of the old one, what it was converted to, and no tables yet.
nlohmann::json converted_manifest(const nlohmann::json& manifest, const std::string& to) {
  nlohmann::json extra = {{"converted", to}, {"tables", nlohmann::json::object()}};
  for (const auto& [key, value] : manifest.items()) {
    if (!extra.contains(key) && key != "format" && key != "step" && key != "files" && key != "sum") extra[key] = value;
  }
  return extra;
}

using Bytes = std::pair<int64_t, int64_t>;  // of what was converted, before and after

// All that serving needs of the checkpoint, with other tables.
Bytes write_tables(const RunArgument& run, const std::string& dtype, const fs::path& out, ProgressLine& progress) {
  const nlohmann::json& manifest = run.checkpoint.manifest();
  CheckpointWriter writer(out, run.checkpoint.step());
  link_files(writer, run.checkpoint, files_to_keep(manifest));
  nlohmann::json extra = converted_manifest(manifest, dtype);
  Bytes bytes = {0, 0};
  for (const std::string& name : tables_in(run.checkpoint)) {
    const ServedParts table(run.checkpoint, name);
    const fs::path path = writer.file(base_file(name));
    if (dtype == "int8") {
      write_int8(path, table, progress);
    } else {
      write_bfloat16(path, table, progress);
    }
    extra["tables"][name] = TablePart{base_file(name), {}, 0, table.rows}.to_json(/*alone=*/true);
    bytes.first += table.bytes;
    bytes.second += file_bytes(path);
  }
  writer.finish(extra, 0);
  return bytes;
}

// The checkpoint with the packed network in the place of the trained one.
Bytes write_packed(const RunArgument& run, const NamedTensors& packed, const fs::path& out) {
  CheckpointWriter writer(out, run.checkpoint.step());
  std::vector<std::string> kept = files_to_keep(run.checkpoint.manifest());
  std::erase(kept, kModelFile);
  link_files(writer, run.checkpoint, kept);
  write_tensors(writer.file(kModelFile), packed);
  const Bytes bytes = {file_bytes(run.checkpoint.file(kModelFile)), file_bytes(writer.file(kModelFile))};
  writer.finish(converted_manifest(run.checkpoint.manifest(), "packed"), 0);
  return bytes;
}

std::string convert_text(const nlohmann::json& facts) {
  std::string text =
      fmt::format("{}: {} instead of {}\n",
                  facts.contains("packed") ? "packed network" : "tables as " + facts["table"].get<std::string>(),
                  format_bytes(facts["bytes_after"].get<double>()), format_bytes(facts["bytes_before"].get<double>()));
  const nlohmann::json measures_before = facts.value("measures_before", nlohmann::json::object());
  for (const auto& [name, before] : measures_before.items()) {
    const double is = number_of(facts["measures_after"][name]);
    text += fmt::format("{} {:.4f} before, {:.4f} after, change {:+.5f}\n", name, number_of(before), is,
                        is - number_of(before));
  }
  if (facts.contains("equal_scores")) {
    text += fmt::format("scores of the test data: {}\n",
                        facts["equal_scores"].get<bool>() ? "the same bits" : "other bits");
  }
  return text + fmt::format("Written: {}\n", printable(facts["out"].get<std::string>()));
}

// The measures of a run, and the sum of its scores where its task has one.
std::pair<nlohmann::json, nlohmann::json> measures_of(const RunArgument& run, const ConvertArguments& arguments,
                                                      ProgressLine& progress) {
  const Measured measured = measure(run, arguments.data, arguments.cache, progress);
  const nlohmann::json evaluation = evaluation_json(measured.task->measures(), measured.evaluation);
  return {evaluation.at("measures"), measured.evaluation.details.value("scores", nlohmann::json())};
}

void convert(const ConvertArguments& arguments) {
  const std::string dtype = arguments.packed ? "" : arguments.table == "bf16" ? "bfloat16" : "int8";
  const fs::path out = arguments.out;
  const RunArgument run = find_run(arguments.run);
  RunConfig config = read_run_config(run.folder / "config.toml", all_tasks());  // of the run to come
  NamedTensors packed;
  if (arguments.packed) {
    packed = config.plan->pack(run.checkpoint);
  } else {
    config.plan->convert_tables(dtype);
  }
  if (path_exists(out, ExitCode::usage))
    fail(ExitCode::usage, "convert", "--out must be a new folder", out.string() + ", which exists");
  ProgressLine progress(arguments.quiet);
  nlohmann::json facts = {{"run", run.folder.string()}, {"out", out.string()}};
  facts[arguments.packed ? "packed" : "table"] = arguments.packed ? nlohmann::json(true) : nlohmann::json(dtype);
  nlohmann::json scores;
  const StopSignal signals("stopping");
  make_folders(out, ExitCode::usage);  // a path that cannot be written is told before the work
  try {
    if (!arguments.data.empty()) std::tie(facts["measures_before"], scores) = measures_of(run, arguments, progress);
    progress.show("writing the new run");
    std::tie(facts["bytes_before"], facts["bytes_after"]) =
        arguments.packed ? write_packed(run, packed, out) : write_tables(run, dtype, out, progress);
    write_file_durably(out / "config.toml", Config::write(config));
    check_conversion_goes_on();
  } catch (...) {
    std::error_code ignored;
    fs::remove_all(out, ignored);
    throw;
  }
  if (!arguments.data.empty()) {
    const auto [measures, after] = measures_of(find_run(out), arguments, progress);
    facts["measures_after"] = measures;
    if (!scores.is_null()) facts["equal_scores"] = after == scores;
  }
  progress.finish();
  if (arguments.json) return print_json(facts);
  print(convert_text(facts));
}

}  // namespace

void add_convert(CLI::App& program, Action& action) {
  auto* verb = program.add_subcommand(
      "convert", "Write a run with smaller rows, or with a packed network, to use without training");
  auto arguments = std::make_shared<ConvertArguments>();
  verb->add_option("run", arguments->run, "A run directory (OUT/ARM/seed-N) or one of its step-N folders")->required();
  auto* kinds = verb->add_option_group("form", "What becomes smaller");
  kinds->add_option("--table", arguments->table, "Rows of tables: int8 (with a scale a row) or bf16")
      ->check(CLI::IsMember({"int8", "bf16"}));
  kinds->add_flag("--packed", arguments->packed, "The network of a run of binary_network: its signs, 64 in a word");
  kinds->require_option(1);
  verb->add_option("--out", arguments->out, "Folder for the new run")->required();
  verb->add_option("--data", arguments->data, "Folder with the data: show the measures before and after");
  verb->add_option("--cache", arguments->cache, "Folder for tokenised data [~/.cache/loci]");
  verb->add_flag("--json", arguments->json, "Print JSON");
  verb->add_flag("--quiet", arguments->quiet, "No progress");
  verb->footer(
      "Examples:\n  loci convert out/memory/seed-0 --table int8 --out out/memory-int8 --data DIR\n"
      "  loci convert out/memory/seed-0/step-100 --table bf16 --out out/memory-bf16 --json\n"
      "  loci convert out/binary/seed-0 --packed --out out/binary-packed --data photos");
  verb->callback([arguments, &action] { action = [arguments] { convert(*arguments); }; });
}

}  // namespace loci::cli
