// The runs of an experiment: begin or go on, train, measure inference.
#include <c10/core/InferenceMode.h>
#include <malloc.h>
#include <torch/version.h>

#include <algorithm>
#include <chrono>
#include <fstream>

#include "loci/base/cpu_level.h"
#include "loci/base/durable_file.h"
#include "loci/train/checkpoint.h"
#include "loci/train/experiment.h"
#include "loci/train/memory_check.h"
#include "loci/train/precision.h"
#include "loci/train/table_home.h"
#include "loci/train/version.h"

namespace loci {
namespace {

namespace fs = std::filesystem;

constexpr int kInferenceRounds = 5;

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// The peak of a run's training alone, where the kernel lets a process begin its high-water mark anew; what earlier runs
// and the opening of the data left in the heap goes back to the system.
void restart_peak_memory() {
  malloc_trim(0);
  std::ofstream("/proc/self/clear_refs") << 5;
}

std::optional<double> mean_over_memories(const nlohmann::json& evaluation, const char* key) {
  const nlohmann::json memories = evaluation.value("memories", nlohmann::json::array());
  if (memories.empty()) return std::nullopt;
  double sum = 0;
  for (const auto& memory : memories) sum += number_of(memory.at(key));
  return sum / static_cast<double>(memories.size());
}

RunResult result_of(const RunConfig& config, const RunSize& size, const TrainerState& state) {
  RunResult result;
  result.arm = config.arm;
  result.seed = config.seed;
  result.parameters_dense = size.parameters_dense;
  result.parameters_table = size.parameters_table;
  result.train_tokens = state.step * size.tokens_per_step;
  result.seconds = state.seconds;
  result.loss = number_of(state.evaluation.at("loss"));
  result.bits_per_byte = number_of(state.evaluation.at("bits_per_byte"));
  result.text = state.evaluation.value("text", "");
  result.usage = mean_over_memories(state.evaluation, "usage");
  result.kl = mean_over_memories(state.evaluation, "kl");
  return result;
}

// Of the model as it was made: a tokenizer may have fewer tokens than the configuration allows. A task that updates its
// parameters itself names none; then the configuration's number is right.
int64_t dense_parameters_of(Task& task, const RunSize& planned) {
  int64_t count = 0;
  for (const NamedParameter& parameter : task.dense_parameters()) count += parameter.value.numel();
  return count == 0 ? planned.parameters_dense : count;
}

nlohmann::json start_line(const RunConfig& config, const RunSize& size, int threads, const TrainerState& state) {
  return {{"kind", "start"},
          {"task", config.task},
          {"arm", config.arm},
          {"seed", config.seed},
          {"step", state.step},
          {"steps", config.steps()},
          {"tokens_per_step", size.tokens_per_step},
          {"parameters_dense", size.parameters_dense},
          {"parameters_table", size.parameters_table},
          {"threads", threads},
          {"level", name_of(cpu_level())},
          {"precision", wants_bfloat16(config.train.precision) ? "bfloat16" : "float32"},
          {"loci", version()},
          {"torch", TORCH_VERSION},
          {"memory_estimate_bytes", total_bytes(size.memory)}};
}

// Of the start line, what a checkpoint's manifest keeps.
nlohmann::json facts_of(const nlohmann::json& start) {
  nlohmann::json facts;
  for (const char* key : {"task", "arm", "seed", "threads", "level", "precision", "loci", "torch"}) {
    facts[key] = start[key];
  }
  return facts;
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const size_t middle = values.size() / 2;
  return values.size() % 2 == 1 ? values[middle] : (values[middle - 1] + values[middle]) / 2;
}

// Tokens per second of forward passes in evaluation mode.
double inference_speed(Task& task, bool bfloat16, double least_seconds) {
  const c10::InferenceMode no_gradient;
  const PrecisionGuard precision(bfloat16);
  task.module().eval();
  task.infer(0);  // caches, generated code
  int64_t tokens = 0;
  const double begin = now();
  double seconds = 0;
  for (int64_t position = 0; seconds < least_seconds; ++position) {
    tokens += task.infer(position);
    seconds = now() - begin;
  }
  return static_cast<double>(tokens) / seconds;
}

}  // namespace

RunResult Experiment::run_one(const Place& place, size_t number, ProgressLine& progress) {
  const RunConfig config = resolve(place);
  const fs::path folder = folder_of(config.arm, config.seed);
  const std::string label = fmt::format("[{}/{}] {} seed {}", number, places_.size(), config.arm, config.seed);
  RunDirectory run(folder, Config::write(config));
  if (fs::exists(folder / kResultFile)) {
    progress.finish(fmt::format("{}: finished already", label));
    return finished_result(config.arm, config.seed, config.arm);
  }
  const int threads = use_threads(config.train.threads);
  RunSize size = size_of(config);
  const WorkFolder work(run.path() / "work");
  TaskInputs inputs = inputs_of(config, &progress);
  inputs.tables = training_tables(work.path(), run.latest().has_value());
  const auto task = config.plan->make(inputs);
  size.parameters_dense = dense_parameters_of(*task, size);
  OptimizerSet optimizers(task->dense_parameters(), config.optimizer, task->tables(),
                          static_cast<uint64_t>(config.seed));
  TrainerState state;
  if (run.latest()) {
    const CheckpointReader checkpoint = open_latest(folder, [&](const std::string& line) { progress.finish(line); });
    if (checkpoint.manifest().value("threads", threads) != threads) {
      progress.finish(fmt::format("{}: {} threads now, {} before: the numbers may differ in the last bits", label,
                                  threads, checkpoint.manifest().value("threads", 0)));
    }
    state = load_checkpoint(checkpoint, *task, optimizers);
  }
  restart_peak_memory();
  MetricsLog log = run.metrics(state.step);
  const nlohmann::json start = start_line(config, size, threads, state);
  log.write(start);
  Trainer trainer(*task, optimizers, config.train, run, log, facts_of(start), progress, label);
  state = trainer.run(state);
  log.write({{"kind", "end"},
             {"step", state.step},
             {"tokens", state.step * size.tokens_per_step},
             {"seconds", state.seconds},
             {"peak_memory_bytes", peak_resident_bytes()}});
  const RunResult result = result_of(config, size, state);
  write_file_durably(folder / kResultFile, to_json(result).dump(2) + "\n");
  progress.finish(fmt::format("{}: loss {:.4f}, {} tokens in {}", label, result.loss,
                              format_count(static_cast<double>(result.train_tokens)), format_seconds(result.seconds)));
  return result;
}

// What the summary holds of runs that this call was not asked for stays in it.
std::vector<RunResult> Experiment::with_earlier(const std::vector<RunResult>& results) const {
  std::vector<RunResult> all = results;
  const fs::path path = options_.out / "summary.json";
  if (fs::exists(path)) {
    for (const nlohmann::json& row : parse_json(path)) {
      const RunResult earlier = run_result(row, path.string());
      const bool known = std::any_of(all.begin(), all.end(), [&](const RunResult& result) {
        return result.arm == earlier.arm && result.seed == earlier.seed;
      });
      if (!known && fs::exists(folder_of(earlier.arm, earlier.seed) / kResultFile)) all.push_back(earlier);
    }
  }
  const auto place_of = [this](const std::string& name) {
    return std::find_if(recipe_.arms.begin(), recipe_.arms.end(), [&](const Arm& arm) { return arm.name == name; });
  };
  std::stable_sort(all.begin(), all.end(), [&](const RunResult& a, const RunResult& b) {
    return std::pair(a.seed, place_of(a.arm)) < std::pair(b.seed, place_of(b.arm));
  });
  return all;
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
    const RunConfig config = resolve(places_[i]);
    const CheckpointReader checkpoint = open_latest(folder_of(config.arm, config.seed), {});
    TaskInputs inputs = inputs_of(config, &progress);
    inputs.tables = serving_tables(checkpoint);
    inputs.training = false;
    Loaded loaded{config.plan->make(inputs), wants_bfloat16(config.train.precision), config.train.threads};
    load_model(checkpoint, *loaded.task);
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
        speeds[i].push_back(inference_speed(*models[i].task, models[i].bfloat16, options_.inference_seconds));
      }
    }
    for (size_t i = 0; i < models.size(); ++i) results[begin + i].tokens_per_second_inference = median(speeds[i]);
  }
}

}  // namespace loci
