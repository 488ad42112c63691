#include "cli/measure.h"

#include "loci/train/checkpoint.h"
#include "loci/train/experiment.h"
#include "loci/train/memory_check.h"
#include "loci/train/precision.h"
#include "loci/train/table_home.h"
#include "loci/train/trainer.h"

namespace loci::cli {
namespace {

nlohmann::json chosen(const nlohmann::json& measures) {
  nlohmann::json result;
  for (const char* key : {"loss", "bits_per_byte", "tokens"}) result[key] = measures.value(key, nlohmann::json());
  result["memories"] = nlohmann::json::array();
  for (const nlohmann::json& memory : measures.value("memories", nlohmann::json::array())) {
    nlohmann::json part;
    for (const char* key : {"layer", "usage", "usage_at_1", "kl", "gini"}) {
      part[key] = memory.value(key, nlohmann::json());
    }
    result["memories"].push_back(part);
  }
  return result;
}

}  // namespace

nlohmann::json measure(const RunArgument& run, const std::filesystem::path& data, const std::filesystem::path& cache,
                       ProgressLine& progress) {
  const RunSize size = run.config.size();
  MemoryEstimate needed = memory_of_parameters(size);
  needed.emplace_back("counters of rows", size.counter_bytes);
  require_memory("eval", needed);
  use_threads(run.config.train.threads);
  TaskInputs inputs;
  inputs.data = data;
  inputs.cache = cache.empty() ? default_cache() : cache;
  inputs.checkpoint = run.checkpoint.path();
  inputs.seed = static_cast<uint64_t>(run.config.seed);
  inputs.batch = run.config.batch();
  inputs.rows = run.config.table_optimizer;
  inputs.tables = serving_tables(run.checkpoint);
  inputs.training = false;
  inputs.progress = &progress;
  const auto task = run.config.plan->make(inputs);
  load_model(run.checkpoint, *task);
  progress.show("evaluating");
  return chosen(evaluate(*task, wants_bfloat16(run.config.train.precision)));
}

}  // namespace loci::cli
