#include "cli/measure.h"

#include "loci/base/check.h"
#include "loci/train/checkpoint.h"
#include "loci/train/experiment.h"
#include "loci/train/memory_check.h"
#include "loci/train/precision.h"
#include "loci/train/table_home.h"
#include "loci/train/trainer.h"

namespace loci::cli {

Measured measure(const RunArgument& run, const std::filesystem::path& data, const std::filesystem::path& cache,
                 ProgressLine& progress, const Ranks& ranks) {
  const TaskPlan& plan = *run.config.plan;
  if (plan.needs_data() && data.empty()) throw Error(ExitCode::usage, "eval: --data DIR is required");
  plan.check_ranks(ranks);
  const RunSize size = run.config.size(ranks);
  MemoryEstimate needed = memory_of_parameters(size, ranks);
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
  inputs.units_before = run.config.units_before();
  inputs.tables = serving_tables(run.checkpoint, ranks);
  inputs.ranks = ranks;
  inputs.training = false;
  inputs.progress = &progress;
  Measured measured{plan.make(inputs), {}};
  if (!plan.needs_data()) require_data(run.checkpoint, measured.task->data_key());
  load_model(run.checkpoint, *measured.task);
  progress.show("evaluating");
  measured.evaluation = evaluate(*measured.task, wants_bfloat16(run.config.train.precision));
  return measured;
}

}  // namespace loci::cli
