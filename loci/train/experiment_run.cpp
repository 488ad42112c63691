// The runs of an experiment: begin or go on, train, measure inference.
#include <c10/core/InferenceMode.h>
#include <malloc.h>
#include <torch/version.h>

#include <algorithm>
#include <array>
#include <ctime>
#include <fstream>
#include <optional>

#include "loci/base/cpu_level.h"
#include "loci/base/durable_file.h"
#include "loci/base/median.h"
#include "loci/base/paths.h"
#include "loci/distributed/agreement.h"
#include "loci/distributed/same_on_ranks.h"
#include "loci/train/checkpoint.h"
#include "loci/train/experiment.h"
#include "loci/train/in_turns.h"
#include "loci/train/memory_check.h"
#include "loci/train/precision.h"
#include "loci/train/run_data.h"
#include "loci/train/table_home.h"
#include "loci/train/version.h"

namespace loci {
namespace {

namespace fs = std::filesystem;

constexpr int kInferenceRounds = 5;

// The peak of a run's training alone, where the kernel lets a process begin its high-water mark anew; what earlier runs
// and the opening of the data left in the heap goes back to the system.
void restart_peak_memory() {
  malloc_trim(0);
  std::ofstream("/proc/self/clear_refs") << 5;
}

Summary result_of(const RunConfig& config, const Arm& arm, const RunSize& size, const Task& task,
                  const TrainerState& state) {
  RunResult result;
  result.arm = config.arm;
  result.seed = config.seed;
  if (arm.equal_time) result.as_long_as = arm.equal_time->to;
  if (config.has_start) result.starts_from = arm.config.start.source();  // the same words for all seeds
  result.units_before = config.units_before();
  result.parameters_dense = size.parameters_dense;
  result.parameters_table = size.parameters_table;
  result.units = state.step * size.units_per_step;
  result.seconds = state.seconds;
  for (const Measure& measure : task.measures()) {
    result.measures[measure.name] = number_of(state.evaluation.at("measures").value(measure.name, nlohmann::json()));
  }
  return {config.task, task.unit(), task.measures(), {result}};
}

// "2026-11-29T08:20:00Z"
std::string utc_time() {
  const std::time_t now = std::time(nullptr);
  std::tm parts = {};
  gmtime_r(&now, &parts);
  std::array<char, 32> text = {};
  return {text.data(), std::strftime(text.data(), text.size(), "%Y-%m-%dT%H:%M:%SZ", &parts)};
}

std::string cpu_name() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with("model name")) return line.substr(std::min(line.size(), line.find(':') + 2));
  }
  return "unknown";
}

// Of the model as it was made: a tokenizer may have fewer tokens than the configuration allows. A task that updates its
// parameters itself names none; then the configuration's number is right.
int64_t dense_parameters_of(Task& task, const RunSize& planned) {
  int64_t count = 0;
  for (const NamedParameter& parameter : task.dense_parameters()) count += parameter.value.numel();
  return count == 0 ? planned.parameters_dense : count;
}

nlohmann::json start_line(const RunConfig& config, const RunSize& size, const Task& task, int threads, int64_t ranks,
                          const TrainerState& state) {
  nlohmann::json line = {{"kind", "start"},
                         {"task", config.task},
                         {"arm", config.arm},
                         {"seed", config.seed},
                         {"step", state.step},
                         {"steps", config.steps()},
                         {"unit", task.unit()},
                         {"units_per_step", size.units_per_step},
                         {"measures", task.measures()},
                         {"parameters_dense", size.parameters_dense},
                         {"parameters_table", size.parameters_table},
                         {"threads", threads},
                         {"ranks", ranks},
                         {"level", name_of(cpu_level())},
                         {"precision", wants_bfloat16(config.train.precision) ? "bfloat16" : "float32"},
                         {"time", utc_time()},
                         {"cpu", cpu_name()},
                         {"data", task.data_facts()},
                         {"loci", version()},
                         {"torch", TORCH_VERSION},
                         {"memory_estimate_bytes", total_bytes(size.memory)}};
  if (config.has_start) line["starts_from"] = config.start.source();
  if (config.units_before() > 0) line["units_before"] = config.units_before();
  return line;
}

// Of the start line, what a checkpoint's manifest keeps.
nlohmann::json facts_of(const nlohmann::json& start) {
  nlohmann::json facts;
  for (const char* key : {"task", "arm", "seed", "threads", "ranks", "level", "precision", "loci", "torch"}) {
    facts[key] = start[key];
  }
  return facts;
}

// Units per second of forward passes in evaluation mode.
double inference_speed(Task& task, bool bfloat16, double least_seconds) {
  const c10::InferenceMode no_gradient;
  const PrecisionGuard precision(bfloat16);
  task.module().eval();
  task.infer(0);  // caches, generated code
  int64_t units = 0;
  const double begin = monotonic_seconds();
  double seconds = 0;
  for (int64_t position = 0; seconds < least_seconds; ++position) {
    units += task.infer(position);
    seconds = monotonic_seconds() - begin;
  }
  return static_cast<double>(units) / seconds;
}

}  // namespace

Summary Experiment::run_one(const Place& place, size_t number, ProgressLine& progress) {
  const RunConfig config = resolve(place, progress);
  const fs::path folder = folder_of(config.arm, config.seed);
  const std::string label = fmt::format("[{}/{}] {} seed {}", number, places_.size(), config.arm, config.seed);
  const auto directory = run_directory(config);
  RunDirectory& run = *directory;
  if (path_exists(folder / kResultFile)) {
    progress.finish(fmt::format("{}: finished already", label));
    Summary result = finished_result(config.arm, config.seed, config.arm);
    run_seconds_[arm_of_same_time(*place.arm).name] = result.runs.front().seconds;
    return result;
  }
  const std::string work = leads() ? "work" : fmt::format("work-{}", options_.ranks.rank);
  const auto open = open_run(config, run.path() / work, progress);
  RunSize size = size_of(*place.arm);
  size.parameters_dense = dense_parameters_of(*open->task, size);
  if (open->checkpoint) {
    if (const int before = open->checkpoint->member("threads", open->threads); before != open->threads) {
      progress.finish(fmt::format("{}: {} threads now, {} before: the numbers may differ in the last bits", label,
                                  open->threads, before));
    }
  }
  restart_peak_memory();
  MetricsLog log = run.metrics(open->state.step);
  const nlohmann::json start = start_line(config, size, *open->task, open->threads, options_.ranks.size, open->state);
  log.write(start);
  Trainer trainer(*open->task, *open->optimizers, config.train, run, log, facts_of(start), progress, label,
                  options_.ranks);
  if (!told_pace_) trainer.on_pace([&](double seconds) { tell_pace(number - 1, seconds, progress); });
  const TrainerState state = trainer.run(open->state);
  run_seconds_[arm_of_same_time(*place.arm).name] = state.seconds;
  log.write({{"kind", "end"},
             {"step", state.step},
             {"units", state.step * size.units_per_step},
             {"seconds", state.seconds},
             {"peak_memory_bytes", peak_resident_bytes()}});
  Summary result = result_of(config, *place.arm, size, *open->task, state);
  result.runs.front().baselines = open->task->baselines(state.step);
  together(options_.ranks, [&] {
    if (leads()) write_file_durably(folder / kResultFile, nlohmann::json(result).dump(2) + "\n");
  });
  const RunResult& run_result = result.runs.front();
  const Measure& first = result.measures.front();
  std::string line = fmt::format(
      "{}: {} {}, {} {} in {}", label, title_of(first), shown(first, run_result.measures.at(first.name), true),
      format_count(static_cast<double>(run_result.units)), result.unit, format_seconds(run_result.seconds));
  if (number < places_.size()) line += fmt::format("; {} of training left", format_seconds(seconds_from(number)));
  progress.finish(line);
  return result;
}

std::unique_ptr<Experiment::OpenRun> Experiment::open_run(const RunConfig& config, const fs::path& work,
                                                          ProgressLine& progress) {
  std::unique_ptr<OpenRun> open(new OpenRun{
      config, use_threads(config.train.threads), newest_checkpoint(config, progress), WorkFolder(work), {}, {}, {}});
  TaskInputs inputs = inputs_of(config, open->checkpoint, progress);
  inputs.tables = training_tables(open->work.path(), open->checkpoint.has_value(), options_.ranks,
                                  has_row_moment(config.table_optimizer.rule));
  std::optional<StartWeights> start;
  if (!open->checkpoint) start = start_of(config, progress);
  if (start) inputs.checkpoint = start->checkpoint();
  open->task = make_task(config, std::move(inputs));
  if (start) progress.finish(fmt::format("{} seed {}: {}", config.arm, config.seed, start->copy_into(*open->task)));
  open->optimizers = std::make_unique<OptimizerSet>(open->task->dense_parameters(), config.optimizer,
                                                    open->task->tables(), static_cast<uint64_t>(config.seed),
                                                    options_.ranks.size > 1 ? sum_over(options_.ranks) : Reduce());
  if (open->checkpoint)
    open->state = load_checkpoint(*open->checkpoint, *open->task, *open->optimizers, options_.ranks);
  return open;
}

// With the data that another run of this process opened, if its settings are the same: the folder may have changed
// since. Records which data they are, unless the task makes them from its configuration, which the run keeps anyway.
std::unique_ptr<Task> Experiment::make_task(const RunConfig& config, TaskInputs inputs) {
  const std::string settings = data_settings_of(config);
  if (const auto opened = opened_.find(settings); opened != opened_.end()) inputs.opened = opened->second;
  auto task = config.plan->make(inputs);
  require_same(options_.ranks, {{"data", task->data_key()}});
  if (config.plan->needs_data() && leads()) {
    record_run_data(options_.out, folder_of(config.arm, config.seed), {settings, task->data_key(), task->data_facts()},
                    [&task](const std::string& before) { return task->data_changes(before); });
  }
  opened_[settings] = task->opened_data();
  return task;
}

// The arm whose runs take as long as this one's.
const Arm& Experiment::arm_of_same_time(const Arm& arm) const {
  return arm.equal_time ? recipe_.arm(arm.equal_time->to) : arm;
}

// Seconds of training of the runs from places_[place] on: as long as their arm's last run took. An arm that has not
// trained yet is compared with those that have by its dense parameters. That leaves out what has none, attention and
// reads of rows, and says too little: 214 s of 263 for the demo on a Zen 4, where the first arm has no memory.
double Experiment::seconds_from(size_t place) const {
  const auto cost = [](const Arm& arm) {
    const RunSize size = arm.config.size();
    return static_cast<double>(arm.config.steps()) * static_cast<double>(size.units_per_step) *
           static_cast<double>(std::max<int64_t>(1, size.parameters_dense));
  };
  double trained_seconds = 0, trained_cost = 0;
  for (const auto& [name, seconds] : run_seconds_) {
    trained_seconds += seconds;
    trained_cost += cost(recipe_.arm(name));
  }
  double all_seconds = 0;
  for (; place < places_.size(); ++place) {
    const Arm& arm = arm_of_same_time(*places_[place].arm);
    const auto trained = run_seconds_.find(arm.name);
    all_seconds += trained != run_seconds_.end() ? trained->second : cost(arm) * trained_seconds / trained_cost;
  }
  return all_seconds;
}

// From the first run's pace.
void Experiment::tell_pace(size_t place, double step_seconds, ProgressLine& progress) {
  const Arm& arm = arm_of_same_time(*places_[place].arm);
  run_seconds_.try_emplace(arm.name, static_cast<double>(arm.config.steps()) * step_seconds);
  const size_t runs = places_.size() - place;
  const bool guessed =
      std::any_of(places_.begin() + static_cast<std::ptrdiff_t>(place), places_.end(),
                  [this](const Place& p) { return !run_seconds_.contains(arm_of_same_time(*p.arm).name); });
  progress.finish(fmt::format(
      "Training will take roughly {} in all: {}. Evaluations are not counted{}.", format_seconds(seconds_from(place)),
      runs == 1 ? "1 run" : fmt::format("{} runs, one after another", runs),
      guessed ? ", nor are attention and memories of the arms that have not been trained yet" : ""));
  told_pace_ = true;
}

// In rounds over all runs, so that a machine that speeds up or slows down meanwhile treats them alike. Models that do
// not fit into half of the memory together are measured one after another.
void Experiment::measure_inference(std::vector<RunResult>& results, ProgressLine& progress) {
  struct Loaded {
    std::unique_ptr<Task> task;
    bool bfloat16;
    int64_t threads;
  };
  const auto load = [&](size_t i) {
    const RunConfig config = resolve(places_[i], progress);
    const std::optional<CheckpointReader> checkpoint = open_latest(folder_of(config.arm, config.seed), {});
    TaskInputs inputs = inputs_of(config, checkpoint, progress);
    inputs.tables = serving_tables(*checkpoint);
    inputs.training = false;
    Loaded loaded{make_task(config, std::move(inputs)), wants_bfloat16(config.train.precision), config.train.threads};
    load_model(*checkpoint, *loaded.task);
    return loaded;
  };
  int64_t together = 0;
  for (const Place& place : places_) together += total_bytes(place.arm->config.size().memory) / 4;
  const size_t group = together < available_bytes() / 2 ? places_.size() : 1;
  for (size_t begin = 0; begin < places_.size(); begin += group) {
    std::vector<Loaded> models;
    for (size_t i = begin; i < begin + group; ++i) models.push_back(load(i));
    std::vector<std::vector<double>> speeds(models.size());
    for (int round = 0; round < kInferenceRounds; ++round) {
      for (size_t i = 0; i < models.size(); ++i) {
        progress.show(fmt::format("measuring inference, round {}/{}", round + 1, kInferenceRounds));
        use_threads(models[i].threads);
        speeds[i].push_back(inference_speed(*models[i].task, models[i].bfloat16, options_.turn_seconds));
      }
    }
    for (size_t i = 0; i < models.size(); ++i) results[begin + i].units_per_second_inference = median_of(speeds[i]);
  }
}

}  // namespace loci
