// For tests of the language model's task: a tiny recipe, and a folder of texts that repeat one byte each.
#pragma once

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "loci/base/config.h"
#include "loci/base/progress.h"
#include "loci/tasks/all.h"
#include "loci/tasks/language_model.h"
#include "loci/train/recipe.h"
#include "tests/temporary_folder.h"

namespace loci {

constexpr const char* kLanguageModelRecipe = R"(
task = "language_model"
[data]
validation_share = 0.3
evaluation_tokens = 0
[tokenizer]
kind = "bytes"
[model]
layers = 1
width = 8
heads = 2
context = 8
[model.memory]
layers = [0]
rows = 25
heads = 2
top_k = 3
key_width = 4
query_norm = "batch"
start = "zero_values"
[train]
batch = 4
)";

class LanguageModel : public testing::Test {
 protected:
  LanguageModel() {
    for (int i = 0; i < 6; ++i) {
      std::ofstream(folder_ / fmt::format("{}.txt", i)) << std::string(200, static_cast<char>('a' + i)) << "\n";
    }
  }

  std::unique_ptr<Task> make(const std::vector<std::string>& settings = {}) {
    recipe_ = read_recipe(Config::from_text(kLanguageModelRecipe), settings, all_tasks());
    const RunConfig& config = recipe_.arms[0].config;
    return config.plan->make(inputs_for(config, progress_));
  }

  TaskInputs inputs_for(const RunConfig& config, ProgressLine& progress) const {
    TaskInputs inputs;
    inputs.data = folder_.path();
    inputs.cache = cache_.path();
    inputs.seed = seed_;
    inputs.batch = config.batch();
    inputs.rows = config.table_optimizer;
    inputs.progress = &progress;
    inputs.units_before = units_before_;
    return inputs;
  }

  TemporaryFolder folder_, cache_;
  ProgressLine progress_{true};
  Recipe recipe_;
  int64_t units_before_ = 0;
  uint64_t seed_ = 3;
};

inline const std::vector<std::string> kMasked = {"model.causal=false", "model.memory.query_norm=layer"};

}  // namespace loci
