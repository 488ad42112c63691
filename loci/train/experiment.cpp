#include "loci/train/experiment.h"

#include <ATen/Parallel.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>

#include "loci/base/cpu_level.h"
#include "loci/base/durable_file.h"
#include "loci/train/memory_check.h"
#include "loci/train/precision.h"

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

}  // namespace

nlohmann::json parse_json(const fs::path& path) {
  try {
    return nlohmann::json::parse(read_text_file(path));
  } catch (const nlohmann::json::exception& error) {
    fail(ExitCode::input, path.string(), "the file must be JSON", error.what());
  }
}

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
                         {"memory_available", available_bytes() + resident_bytes()},
                         {"arms", nlohmann::json::array()}};
  for (const Arm* arm : arms_) {
    const RunSize size = size_of(arm->config);
    nlohmann::json facts = {{"arm", arm->name},
                            {"parameters_dense", size.parameters_dense},
                            {"parameters_table", size.parameters_table},
                            {"tokens_per_step", size.tokens_per_step},
                            {"steps", arm->config.steps()},
                            {"threads", use_threads(arm->config.train.threads)},
                            {"precision", wants_bfloat16(arm->config.train.precision) ? "bfloat16" : "float32"},
                            {"memory", memory_json(size.memory)},
                            {"memory_text", memory_text(size.memory)}};
    if (!size.disk.empty()) {
      facts["disk"] = memory_json(size.disk);
      facts["disk_text"] = memory_text(size.disk);
    }
    if (arm->equal_time) {
      facts["steps"] = nullptr;
      facts["equal_time"] = {{"to", arm->equal_time->to}, {"of", arm->equal_time->of}};
    }
    plan["arms"].push_back(facts);
  }
  return plan;
}

std::string Experiment::plan_text(const nlohmann::json& plan) {
  std::string text =
      fmt::format("{}: seeds {}; level {}, {} of memory\n", plan["recipe"].get<std::string>(),
                  fmt::join(plan["seeds"].get<std::vector<int64_t>>(), ", "), plan["level"].get<std::string>(),
                  format_bytes(plan["memory_available"].get<double>()));
  for (const nlohmann::json& arm : plan["arms"]) {
    const std::string steps =
        arm["steps"].is_null()
            ? fmt::format("as long as {}", arm["equal_time"]["to"].get<std::string>())
            : fmt::format("{} steps of {} tokens", arm["steps"].get<int64_t>(), arm["tokens_per_step"].get<int64_t>());
    const double table = arm["parameters_table"].get<double>();
    text += fmt::format("  {}: {} dense parameters{}; {}; {}, {}; {}\n", arm["arm"].get<std::string>(),
                        format_count(arm["parameters_dense"].get<double>()),
                        table > 0 ? fmt::format(", {} in tables", format_count(table)) : "", steps,
                        threads_text(arm["threads"].get<int64_t>()), arm["precision"].get<std::string>(),
                        arm["memory_text"].get<std::string>());
    if (arm.contains("disk_text")) text += fmt::format("    mapped: {}\n", arm["disk_text"].get<std::string>());
  }
  return text;
}

std::vector<RunResult> Experiment::run() {
  check_memory();
  check_out();
  ProgressLine progress(options_.quiet);
  std::vector<RunResult> results;
  for (size_t i = 0; i < places_.size(); ++i) results.push_back(run_one(places_[i], i + 1, progress));
  measure_inference(results, progress);
  results = with_earlier(results);
  nlohmann::json summary = nlohmann::json::array();
  for (const RunResult& result : results) summary.push_back(to_json(result));
  write_file_durably(options_.out / "summary.json", summary.dump(2) + "\n");
  progress.finish();
  return results;
}

fs::path Experiment::folder_of(const std::string& arm, int64_t seed) const {
  return options_.out / arm / fmt::format("seed-{}", seed);
}

void Experiment::check_memory() const {
  for (const Arm* arm : arms_) {
    const RunSize size = size_of(arm->config);
    require_memory(fmt::format("train {}", arm->name), size.memory);
    require_disk(fmt::format("train {}", arm->name), options_.out, size.disk);
  }
}

// The whole process: the program and the data beside what the task needs.
RunSize Experiment::size_of(const RunConfig& config) const {
  RunSize size = config.size();
  size.memory.emplace_back("program", program_bytes_);
  if (!options_.data.empty()) size.memory.emplace_back("data", config.plan->data_bytes(options_.data));
  return size;
}

void Experiment::check_out() const {
  if (options_.resume) return;
  for (const Place& place : places_) {
    const fs::path folder = folder_of(place.arm->name, place.seed);
    if (fs::exists(folder)) {
      fail(ExitCode::usage, "train", "--out must be a new folder, or --resume be given",
           folder.string() + ", which exists");
    }
  }
}

RunResult Experiment::finished_result(const std::string& arm, int64_t seed, const std::string& for_arm) const {
  const fs::path path = folder_of(arm, seed) / kResultFile;
  if (!fs::exists(path)) {
    fail(ExitCode::usage, "train", fmt::format("arm {} needs a finished run of {} with seed {}", for_arm, arm, seed),
         "none in " + options_.out.string());
  }
  return run_result(parse_json(path), path.string());
}

// The arm's configuration with what is known only now: the steps of an arm of equal time. A run that has begun keeps
// the number that it began with.
RunConfig Experiment::resolve(const Place& place) const {
  RunConfig config = recipe_.run(*place.arm, place.seed);
  if (!place.arm->equal_time) return config;
  const fs::path begun = folder_of(place.arm->name, place.seed) / "config.toml";
  if (fs::exists(begun)) {
    struct Steps {
      TrainOptions train;
      void fields(ConfigFields& f) { f.section("train", train); }
    } steps;
    const Config text = Config::from_file(begun);
    std::vector<std::string> others;
    for (const auto& [key, node] : text.table()) {
      if (key.str() != "train") others.emplace_back(key.str());
    }
    text.read(steps, others);
    config.train.steps = steps.train.steps;
    return config;
  }
  const RunResult to = finished_result(place.arm->equal_time->to, place.seed, place.arm->name);
  const RunResult of = finished_result(place.arm->equal_time->of, place.seed, place.arm->name);
  const double steps = static_cast<double>(config.steps()) * to.seconds / std::max(1e-9, of.seconds);
  config.train.steps = std::max<int64_t>(1, std::llround(steps));
  return config;
}

TaskInputs Experiment::inputs_of(const RunConfig& config, ProgressLine* progress) const {
  TaskInputs inputs;
  inputs.data = options_.data;
  inputs.cache = options_.cache;
  inputs.seed = static_cast<uint64_t>(config.seed);
  inputs.batch = config.batch();
  inputs.rows = config.table_optimizer;
  inputs.progress = progress;
  return inputs;
}

}  // namespace loci
