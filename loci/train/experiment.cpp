#include "loci/train/experiment.h"

#include <ATen/Parallel.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>

#include "loci/base/cpu_level.h"
#include "loci/base/durable_file.h"
#include "loci/base/paths.h"
#include "loci/distributed/agreement.h"
#include "loci/distributed/process_group.h"
#include "loci/train/comparison.h"
#include "loci/train/folder_lock.h"
#include "loci/train/memory_check.h"
#include "loci/train/precision.h"
#include "loci/train/text_table.h"
#include "loci/train/wire.h"

namespace loci {
namespace {

namespace fs = std::filesystem;

nlohmann::json memory_json(const MemoryEstimate& estimate) {
  nlohmann::json json = nlohmann::json::object();
  for (const auto& [purpose, bytes] : estimate) json[purpose] = bytes;
  json["total"] = total_bytes(estimate);
  return json;
}

std::string threads_text(int64_t threads) {
  return threads == 1 ? "1 thread" : fmt::format("{} threads", threads);
}

// Of an arm of plan().
std::string start_text(const nlohmann::json& arm) {
  if (!arm.contains("starts_from")) return "";
  std::string text = fmt::format("; starts from {}", arm["starts_from"].get<std::string>());
  if (arm.contains("units_before")) {
    text += fmt::format(" and goes on behind its {} {}", format_count(arm["units_before"].get<double>()),
                        arm["unit"].get<std::string>());
  }
  return text;
}

}  // namespace

int use_threads(int64_t threads) {
  static const int at_start = at::get_num_threads();
  at::set_num_threads(threads == 0 ? at_start : static_cast<int>(threads));
  return at::get_num_threads();
}

Experiment::Experiment(Recipe recipe, ExperimentOptions options)
    : recipe_(std::move(recipe)), options_(std::move(options)) {
  for (const std::string& name : options_.arms) recipe_.arm(name);
  program_bytes_ = program_bytes(use_threads(0));
  for (const Arm& arm : recipe_.arms) {
    const auto& wanted = options_.arms;
    if (wanted.empty() || std::find(wanted.begin(), wanted.end(), arm.name) != wanted.end()) arms_.push_back(&arm);
  }
  check_ranks();
  std::map<std::string, int64_t> data_bytes;
  for (const Arm& arm : recipe_.arms) sizes_[arm.name] = whole_size_of(arm.config, data_bytes);
  const auto once = [](const char* option, auto values) {  // given twice, a run would count as two
    std::sort(values.begin(), values.end());
    const auto twice = std::adjacent_find(values.begin(), values.end());
    if (twice != values.end())
      fail(ExitCode::usage, option, "each must be given once", fmt::format("{} twice", *twice));
  };
  once("--arm", options_.arms);
  once("--seed", options_.seeds);
  for (const int64_t seed : options_.seeds.empty() ? recipe_.seeds : options_.seeds) {
    if (std::find(recipe_.seeds.begin(), recipe_.seeds.end(), seed) == recipe_.seeds.end()) {
      fail(ExitCode::usage, "--seed",
           fmt::format("the seed must be one of the recipe's {} (--set seeds=[{}] changes them)",
                       fmt::join(recipe_.seeds, ", "), seed),
           fmt::to_string(seed));
    }
    for (const Arm* arm : arms_) places_.push_back({arm, seed});
  }
}

nlohmann::json Experiment::plan() const {
  nlohmann::json plan = {{"recipe", recipe_.name},
                         {"seeds", options_.seeds.empty() ? recipe_.seeds : options_.seeds},
                         {"level", name_of(cpu_level())},
                         {"ranks", options_.ranks.size},
                         {"memory_available", available_bytes() + resident_bytes()},
                         {"arms", nlohmann::json::array()}};
  for (const Arm* arm : arms_) {
    const RunSize size = size_of(*arm);
    nlohmann::json facts = {{"arm", arm->name},
                            {"parameters_dense", size.parameters_dense},
                            {"parameters_table", size.parameters_table},
                            {"unit", arm->config.plan->unit()},
                            {"units_per_step", size.units_per_step},
                            {"steps", arm->config.steps()},
                            {"threads", use_threads(arm->config.train.threads)},
                            {"precision", wants_bfloat16(arm->config.train.precision) ? "bfloat16" : "float32"},
                            {"memory", memory_json(size.memory)},
                            {"memory_text", memory_text(size.memory)}};
    if (size.multiply_adds > 0) facts["multiply_adds"] = size.multiply_adds;
    if (!size.disk.empty()) {
      facts["disk"] = memory_json(size.disk);
      facts["disk_text"] = memory_text(size.disk);
    }
    if (options_.ranks.size > 1) facts["wire"] = wire_of(size, options_.ranks.size);
    if (arm->config.has_start) facts["starts_from"] = arm->config.start.source();
    if (const int64_t before = arm->config.units_before(); before > 0) facts["units_before"] = before;
    if (arm->equal_time) {
      facts["steps"] = nullptr;
      facts["equal_time"] = {{"to", arm->equal_time->to}, {"of", arm->equal_time->of}};
    }
    plan["arms"].push_back(facts);
  }
  return plan;
}

std::string Experiment::plan_text(const nlohmann::json& plan) {
  const auto ranks = plan["ranks"].get<int64_t>();
  std::string text =
      fmt::format("{}: seeds {}; {}level {}, {} of memory\n", printable(plan["recipe"].get<std::string>()),
                  fmt::join(plan["seeds"].get<std::vector<int64_t>>(), ", "),
                  ranks > 1 ? fmt::format("{} ranks, numbers of threads and bytes are of each; ", ranks) : "",
                  plan["level"].get<std::string>(), format_bytes(plan["memory_available"].get<double>()));
  for (const nlohmann::json& arm : plan["arms"]) {
    const std::string steps = arm["steps"].is_null()
                                  ? fmt::format("as long as {}", arm["equal_time"]["to"].get<std::string>())
                                  : fmt::format("{} steps of {} {}", arm["steps"].get<int64_t>(),
                                                arm["units_per_step"].get<int64_t>(), arm["unit"].get<std::string>());
    const double table = arm["parameters_table"].get<double>(), operations = arm.value("multiply_adds", 0.0);
    text +=
        wrapped(fmt::format("  {}: {} dense parameters{}{}{}; {}; {}, {}", arm["arm"].get<std::string>(),
                            format_count(arm["parameters_dense"].get<double>()),
                            table > 0 ? fmt::format(", {} in tables", format_count(table)) : "",
                            operations > 0 ? fmt::format(", {} multiply-adds forward", format_count(operations)) : "",
                            start_text(arm), steps, threads_text(arm["threads"].get<int64_t>()),
                            arm["precision"].get<std::string>()),
                4);
    text += wrapped(fmt::format("    memory: {}", arm["memory_text"].get<std::string>()), 6);
    if (arm.contains("wire")) text += wrapped("    " + wire_text(arm["wire"]), 6);
    if (arm.contains("disk_text")) text += wrapped(fmt::format("    disk: {}", arm["disk_text"].get<std::string>()), 6);
  }
  return text;
}

Summary Experiment::run() {
  require_equal_ranks();
  const int64_t sharers = ranks_of_same_memory();
  together(options_.ranks, [&] {
    check_memory(sharers);
    if (leads()) check_out();
  });
  ProgressLine progress(options_.quiet || !leads());
  check_starts(progress);
  Summary results;
  for (size_t i = 0; i < places_.size(); ++i) merge(results, run_one(places_[i], i + 1, progress), recipe_.name);
  if (options_.ranks.size == 1) measure_inference(results.runs, progress);
  const Summary summary = leads() ? add_to_summary(results) : results;
  progress.finish();
  return summary;
}

// What the summary holds of runs that this call was not asked for stays in it, unless their folders are gone.
Summary Experiment::add_to_summary(const Summary& results) const {
  const FolderLock lock(options_.out);
  Summary summary;
  if (path_exists(summary_path())) summary = read_summary(summary_path());
  std::erase_if(summary.runs,
                [this](const RunResult& run) { return !path_exists(folder_of(run.arm, run.seed) / kResultFile); });
  merge(summary, results, summary_path().string());
  const auto place_of = [this](const std::string& name) {
    return std::find_if(recipe_.arms.begin(), recipe_.arms.end(), [&](const Arm& arm) { return arm.name == name; });
  };
  std::stable_sort(summary.runs.begin(), summary.runs.end(), [&](const RunResult& a, const RunResult& b) {
    return std::pair(a.seed, place_of(a.arm)) < std::pair(b.seed, place_of(b.arm));
  });
  write_file_durably(summary_path(),
                     summary_json(summary).dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n");
  return summary;
}

fs::path Experiment::folder_of(const std::string& arm, int64_t seed) const {
  return options_.out / arm / fmt::format("seed-{}", seed);
}

void Experiment::check_memory(int64_t sharers) const {
  const auto multiply = [](MemoryEstimate& estimate, int64_t ranks) {
    for (auto& [purpose, bytes] : estimate) bytes = checked_product("train", purpose, bytes, ranks);
  };
  for (const Arm* arm : arms_) {
    RunSize size = size_of(*arm);
    multiply(size.memory, sharers);
    multiply(size.disk, ranks_of_host());
    require_memory(fmt::format("train {}", arm->name), size.memory);
    require_disk(fmt::format("train {}", arm->name), options_.out, size.disk);
    if (!arm->equal_time) continue;
    const auto& [to, of] = *arm->equal_time;
    MemoryEstimate both = size_of(recipe_.arm(to)).memory;
    for (const auto& part : recipe_.arm(of).config.size().memory) both.push_back(part);
    require_memory(fmt::format("time {} and {} in turns for {}", to, of, arm->name), both);
  }
}

// The whole process: the program and the data, in addition to what the task needs. `data_bytes`, by data settings, so
// that many arms look at the folder once.
RunSize Experiment::whole_size_of(const RunConfig& config, std::map<std::string, int64_t>& data_bytes) const {
  RunSize size = config.size(options_.ranks);
  size.memory.emplace_back("program", program_bytes_);
  if (options_.data.empty()) return size;
  const auto [known, is_new] = data_bytes.try_emplace(config.plan->data_settings(), 0);
  if (is_new) known->second = config.plan->data_bytes(options_.data);
  size.memory.emplace_back("data", known->second);
  return size;
}

void Experiment::check_out() const {
  // A summary that is broken or of another task is told before hours of training.
  if (path_exists(summary_path(), ExitCode::usage)) {
    const std::string is = read_summary(summary_path()).task, expected = recipe_.arms.front().config.task;
    if (is != expected) {
      fail(ExitCode::usage, summary_path().string(), fmt::format("all runs must be of the task {}", expected), is);
    }
  }
  if (options_.resume) return;
  for (const Place& place : places_) {
    const fs::path folder = folder_of(place.arm->name, place.seed);
    if (path_exists(folder, ExitCode::usage)) {
      fail(ExitCode::usage, "train", "--out must be a new folder, or --resume be given",
           folder.string() + ", which exists");
    }
  }
}

// Before hours of training: arms that others start from are trained earlier or finished, weights are there.
void Experiment::check_starts(ProgressLine& progress) const {
  constexpr int64_t no_sums = 0;
  for (auto place = places_.begin(); place != places_.end(); ++place) {
    const RunConfig config = recipe_.run(*place->arm, place->seed);
    const fs::path folder = folder_of(place->arm->name, place->seed);
    if (!config.has_start || (path_exists(folder) && newest_step_folder(folder))) continue;
    const StartOptions& start = config.start;
    if (!start.weights.empty()) {
      StartWeights(start.weights, [&](const std::string& line) { progress.finish(line); }, no_sums);
      continue;
    }
    const auto is_it = [&](const Place& other) { return other.arm->name == start.arm && other.seed == place->seed; };
    if (std::none_of(places_.begin(), place, is_it)) finished_result(start.arm, place->seed, place->arm->name);
  }
}

std::optional<StartWeights> Experiment::start_of(const RunConfig& config, ProgressLine& progress) const {
  if (!config.has_start) return std::nullopt;
  const auto notice = [&](const std::string& line) { progress.finish(line); };
  if (!config.start.weights.empty()) return StartWeights(config.start.weights, notice);
  finished_result(config.start.arm, config.seed, config.arm);
  return StartWeights(folder_of(config.start.arm, config.seed), notice);
}

// Weights of another experiment bring its tokenizer: the same settings may give other data.
std::string Experiment::data_settings_of(const RunConfig& config) const {
  const std::string settings = config.plan->data_settings();
  if (!config.has_start) return settings;
  if (!config.start.weights.empty()) return fmt::format("{}\nstart.weights = {}", settings, config.start.weights);
  const bool same = settings == recipe_.arm(config.start.arm).config.plan->data_settings();
  return same ? settings : fmt::format("{}\nstart.arm = {}", settings, config.start.arm);
}

Summary Experiment::finished_result(const std::string& arm, int64_t seed, const std::string& for_arm) const {
  const fs::path path = folder_of(arm, seed) / kResultFile;
  if (!path_exists(path)) {
    fail(ExitCode::usage, "train", fmt::format("arm {} needs a finished run of {} with seed {}", for_arm, arm, seed),
         fmt::format("none in {} (--arm {} --seed {} trains it{})", options_.out.string(), arm, seed,
                     path_exists(folder_of(arm, seed)) ? ", with --resume" : ""));
  }
  const Summary result = read_summary(path);
  if (result.runs.size() != 1 || result.runs[0].arm != arm || result.runs[0].seed != seed) {
    fail(ExitCode::input, path.string(), fmt::format("the file must hold the run of {}, seed {}", arm, seed),
         fmt::format("{} runs", result.runs.size()));
  }
  return result;
}

// A run that has a checkpoint goes on with the checkpoint's own tokenizer.
TaskInputs Experiment::inputs_of(const RunConfig& config, const std::optional<CheckpointReader>& checkpoint,
                                 ProgressLine& progress) const {
  TaskInputs inputs;
  if (checkpoint) inputs.checkpoint = checkpoint->path();
  inputs.data = options_.data;
  inputs.cache = options_.cache;
  inputs.seed = static_cast<uint64_t>(config.seed);
  inputs.batch = config.batch();
  inputs.units_before = config.units_before();
  inputs.rows = config.table_optimizer;
  inputs.progress = &progress;
  inputs.ranks = options_.ranks;
  return inputs;
}

}  // namespace loci
