// The configuration of a ram task: fields, checks, sizes. Legend: S seeds, P parameters of each, M values and cells,
// T steps, O logits.
#include <ATen/Parallel.h>

#include "loci/base/check.h"
#include "loci/tasks/ram_task.h"

namespace loci {

void RamDataOptions::fields(ConfigFields& f) {
  f.choice("task", task, "what the machine learns", ram_task_names());
  f.field("difficulty", difficulty, "last level of the curriculum: the length of an instance",
          {.minimum = 1, .maximum = 1000});
  f.field("slack", slack, "cells of the tape beyond what the last level needs", {.minimum = 0, .maximum = 1000});
  f.field("index_base", index_base, "number of the first element", {.minimum = 0, .maximum = 1});
  f.field("out_pointer", out_pointer, "the tape holds a pointer to the place of the answer");
  f.field("raise_error", raise_error, "error below which a level is learned", {.minimum = 1e-9, .maximum = 1});
  f.field("gap", gap, "updates between two rises of the level", {.minimum = 0});
}

void RamSearchOptions::fields(ConfigFields& f) {
  f.field("seeds", seeds, "machines trained side by side", {.minimum = 1, .maximum = 4096});
  f.field("enough", enough, "exact discrete machines that end the run; 0: every seed goes on to its end",
          {.minimum = 0, .maximum = 4096});
  f.field("learn_updates", learn_updates, "updates after which a seed that has not learned the last level is given up",
          {.minimum = 1});
  f.field("early_updates", early_updates, "updates after which a seed below early_level is given up; 0: none is",
          {.minimum = 0});
  f.when(early_updates > 0, "search.early_updates is above 0", [&] {
    f.field("early_level", early_level, "level that a seed must have reached by then", {.minimum = 1, .maximum = 1000});
  });
}

void RamPlan::fields(ConfigFields& f) {
  f.section("data", data);
  f.section("model", model);
  f.section("update", update);
  f.section("anneal", anneal);
  f.section("search", search);
}

RamTask RamPlan::ram_task() const {
  return loci::ram_task(data.task, {.index_base = data.index_base, .out_pointer = data.out_pointer});
}

uint32_t RamPlan::tape_size() const {
  return ram_task().minimum_tape(data.difficulty) + static_cast<uint32_t>(data.slack);
}

std::string RamPlan::data_key() const {
  return fmt::format("{} {} {} {}", data.task, data.index_base, data.out_pointer, tape_size());
}

void RamPlan::check() const {
  const RamTask task = ram_task();
  if (data.difficulty < task.minimum_difficulty) {
    fail(ExitCode::usage, "config",
         fmt::format("data.difficulty of {} must be at least {}", task.name, task.minimum_difficulty),
         fmt::to_string(data.difficulty));
  }
  if (search.enough > search.seeds) {
    fail(ExitCode::usage, "config", fmt::format("search.enough must be at most search.seeds = {}", search.seeds),
         fmt::to_string(search.enough));
  }
  if (search.early_updates > 0 && search.early_level > data.difficulty) {
    fail(ExitCode::usage, "config",
         fmt::format("search.early_level must be at most data.difficulty = {}", data.difficulty),
         fmt::to_string(search.early_level));
  }
}

RunSize RamPlan::size(const BatchShape& batch, const RowOptimizerOptions&, bool) const {
  const int64_t P = neural_ram_parameters(model), S = search.seeds, M = tape_size();
  const RamTask task = ram_task();
  const int64_t T = task.training_steps(data.difficulty), O = (P / model.width) + model.width;
  const int64_t blocks = S * ((batch.batch + 15) / 16);
  const int64_t lanes = T * (M * M + model.registers * M + 3 * O + 8 * model.width);
  return {.parameters_dense = S * P,
          .parameters_table = 0,
          .units_per_step = S * batch.batch,
          .memory = {{"dense parameters", 4 * S * P},
                     {"optimiser state", 4 * 6 * S * P},
                     {"gradients", 4 * (blocks + S) * P},
                     {"activations", 4 * 16 * lanes * at::get_num_threads()}}};
}

}  // namespace loci
