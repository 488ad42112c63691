// What an experiment found: one result a run, and tables of means over seeds.
#pragma once

#include <nlohmann/json.hpp>

#include <optional>
#include <string>
#include <vector>

#include "loci/train/recipe.h"

namespace loci {

struct RunResult {
  std::string arm;
  int64_t seed = 0;
  int64_t parameters_dense = 0;
  int64_t parameters_table = 0;
  int64_t train_tokens = 0;
  double seconds = 0;  // of training
  double loss = 0;
  double bits_per_byte = 0;
  std::optional<double> tokens_per_second_inference;
  std::optional<double> usage, kl;  // of the validation data; means over the memories
  std::string text;                 // a task's own account, which is then shown instead of a row
};

// The keys of summary.json; null where there is nothing.
nlohmann::json to_json(const RunResult& result);
RunResult run_result(const nlohmann::json& json, const std::string& who);  // throws Error (input)

// The tables for people: at equal training tokens, and at equal training time where the recipe has such arms.
std::string comparison_text(const std::vector<RunResult>& results, const Recipe& recipe);

}  // namespace loci
