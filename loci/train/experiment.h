// An experiment: every arm and seed of a recipe as a run in OUT/ARM/seed-N/, then the comparison.
//
// All arms of a seed see the same batches. Finished runs are skipped on resume, half-finished ones go on. Arms run one
// after another, so their seconds hold the machine's drift; equal time comes from paces that are measured in turns.
#pragma once

#include <nlohmann/json.hpp>

#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "loci/train/recipe.h"
#include "loci/train/run_directory.h"
#include "loci/train/start_weights.h"
#include "loci/train/summary.h"
#include "loci/train/table_home.h"
#include "loci/train/trainer.h"

namespace loci {

struct ExperimentOptions {
  std::filesystem::path out;
  std::filesystem::path data;
  std::filesystem::path cache;  // where prepared data may be kept
  bool resume = false;
  bool quiet = false;
  std::vector<std::string> arms;  // of the recipe; empty: all
  std::vector<int64_t> seeds;     // empty: the recipe's
  double turn_seconds = 0.25;     // of each turn in which runs are timed: for inference, and for equal time
  Ranks ranks = {};               // that train each run together; OUT must be the same folder for all of them
};

// Written last into the folder of a run that is finished: a summary of it alone, without the speed of inference.
constexpr const char* kResultFile = "result.json";

// Sets the framework's threads; 0: as many as it took at the start of the process. Returns the number in use.
int use_threads(int64_t threads);

class Experiment {
 public:
  // Throws Error (usage) for arms that the recipe does not have, and for those that several ranks cannot train.
  Experiment(Recipe recipe, ExperimentOptions options);

  // Parameters, bytes by purpose against what is available, threads, level, seeds and steps, an arm each.
  nlohmann::json plan() const;
  static std::string plan_text(const nlohmann::json& plan);

  // Trains what is not finished, measures the speed of inference, adds the results to OUT/summary.json and returns what
  // that holds then. Several processes may train other arms and seeds into the same OUT. Refuses before anything is
  // written or read: memory that cannot fit (resources), an OUT that holds these runs unless told to resume (usage), a
  // broken summary.json, weights to start from that are not there (input). Refuses a run whose data differ from those
  // of another run in OUT (input). All ranks call it; rank 0 alone writes files beside checkpoints, shows progress and
  // measures inference where it is the only one.
  Summary run();

  const Recipe& recipe() const { return recipe_; }

 private:
  struct Place {
    const Arm* arm;
    int64_t seed;
  };
  std::filesystem::path folder_of(const std::string& arm, int64_t seed) const;
  bool leads() const { return options_.ranks.rank == 0; }
  void check_ranks() const;
  void check_out() const;
  // Ranks on this host, in the same control group: what one of them takes the others lack.
  int64_t ranks_of_same_memory() const;
  void check_memory(int64_t sharers) const;
  void check_starts(ProgressLine& progress) const;
  RunSize size_of(const Arm& arm) const { return sizes_.at(arm.name); }
  RunSize whole_size_of(const RunConfig& config, std::map<std::string, int64_t>& data_bytes) const;
  // A run's task and optimisers as its newest checkpoint left them, or new. The tables' working files go last.
  struct OpenRun {
    RunConfig config;
    int threads;
    std::optional<CheckpointReader> checkpoint;
    WorkFolder work;
    std::unique_ptr<Task> task;
    std::unique_ptr<OptimizerSet> optimizers;
    TrainerState state;
  };
  // The one of rank 0, which alone reads all of it to check its sums.
  std::optional<CheckpointReader> newest_checkpoint(const RunConfig& config, ProgressLine& progress) const;
  std::unique_ptr<OpenRun> open_run(const RunConfig& config, const std::filesystem::path& work, ProgressLine& progress);
  // Throws Error (usage) that names the first rank with another recipe, program or machine level.
  void require_equal_ranks() const;
  std::unique_ptr<RunDirectory> run_directory(const RunConfig& config) const;
  RunConfig resolve(const Place& place, ProgressLine& progress);
  int64_t steps_of_equal_time(const Place& place, ProgressLine& progress);
  // What the run starts from, if its configuration says so. Throws Error (usage) for an arm that is not finished.
  std::optional<StartWeights> start_of(const RunConfig& config, ProgressLine& progress) const;
  std::string data_settings_of(const RunConfig& config) const;
  Summary finished_result(const std::string& arm, int64_t seed, const std::string& for_arm) const;
  Summary run_one(const Place& place, size_t number, ProgressLine& progress);
  TaskInputs inputs_of(const RunConfig& config, const std::optional<CheckpointReader>& checkpoint,
                       ProgressLine& progress) const;
  std::unique_ptr<Task> make_task(const RunConfig& config, TaskInputs inputs);
  std::filesystem::path summary_path() const { return options_.out / "summary.json"; }
  Summary add_to_summary(const Summary& results) const;
  const Arm& arm_of_same_time(const Arm& arm) const;
  double seconds_from(size_t place) const;
  void tell_pace(size_t place, double step_seconds, ProgressLine& progress);
  void measure_inference(std::vector<RunResult>& results, ProgressLine& progress);

  Recipe recipe_;
  ExperimentOptions options_;
  std::vector<const Arm*> arms_;
  std::vector<Place> places_;
  int64_t program_bytes_ = 0;                  // before anything was allocated
  std::map<std::string, RunSize> sizes_;       // by arm
  std::map<std::string, double> run_seconds_;  // of a run, by arm, as far as one has trained
  bool told_pace_ = false;
  std::map<std::string, std::shared_ptr<const OpenedData>> opened_;  // what runs were trained on, by data settings
};

}  // namespace loci
