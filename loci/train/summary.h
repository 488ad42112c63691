// What training leaves for readers: result.json of a run and summary.json of an experiment, in one format.
//
//   {"task", "unit", "measures": [{"name", "digits", "lower_is_better", "unit", "meaning"}],
//    "runs": [{"arm", "seed", "as_long_as", "starts_from", "units_before" (of some), "parameters_dense",
//    "parameters_table",
//              "units", "seconds", "units_per_second_inference", "measures": {name: value},
//              "baselines": [{"name", "meaning", "numbers", "measures": {name: value}}]}]}
#pragma once

#include <nlohmann/json.hpp>

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "loci/train/measure.h"

namespace loci {

struct RunResult {
  std::string arm;
  int64_t seed = 0;
  std::string as_long_as;   // an arm of equal time: the arm whose training time it was given
  std::string starts_from;  // the arm or file whose weights it started from, as the recipe says it; or empty
  int64_t parameters_dense = 0;
  int64_t parameters_table = 0;
  int64_t units = 0;                       // that it was trained on
  int64_t units_before = 0;                // that the weights it started from were trained on, where that counts
  double seconds = 0;                      // of training
  std::map<std::string, double> measures;  // by name; NaN where there is none
  std::optional<double> units_per_second_inference;
  std::vector<Baseline> baselines;  // on the same data
};

struct Summary {
  std::string task;
  std::string unit;
  std::vector<Measure> measures;  // the first is what arms are compared by
  std::vector<RunResult> runs;
};

void to_json(nlohmann::json& json, const RunResult& result);
void from_json(const nlohmann::json& json, RunResult& result);
void to_json(nlohmann::json& json, const Summary& summary);
void from_json(const nlohmann::json& json, Summary& summary);

// Throws Error (input) when the file is no summary.
Summary read_summary(const std::filesystem::path& path);

// Adds the measures and runs of `other`; its runs replace those of the same arm and seed. Throws Error (usage) when it
// is of another task.
void merge(Summary& summary, const Summary& other, const std::string& who);

}  // namespace loci
