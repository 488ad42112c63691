// A run's state as a checkpoint: parameters and buffers (model.safetensors), tables and their state
// (table_checkpoint.h), state of the dense optimiser (optimizer.safetensors) and of the task (task.safetensors), the
// task's files, and in the manifest the trainer's state. Everything is copied into tensors that exist.
#pragma once

#include <torch/nn/module.h>

#include <functional>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "loci/distributed/collectives.h"
#include "loci/optim/optimizer_set.h"
#include "loci/train/run_directory.h"
#include "loci/train/task.h"

namespace loci {

// The file of parameters and buffers.
constexpr const char* kModelFile = "model.safetensors";

// What a checkpoint holds in addition to tensors. A task's loss is a pure function of step and seed, so the step is
// also the position of the data and of every generator.
struct TrainerState {
  int64_t step = 0;       // steps done
  double seconds = 0;     // of training; evaluation and checkpoints are not counted
  int64_t skips = 0;      // bad steps in a row
  int64_t all_skips = 0;  // of the whole run
  double loss_sum = 0;    // since the last line of the log
  int64_t loss_count = 0;
  nlohmann::json evaluation;             // the last one
  int64_t evaluated_step = -1;           // after which it was made
  std::optional<CheckpointFiles> saved;  // the checkpoint that the tables' changed rows count from
};

// `facts` are members of the manifest: versions, seed, threads ... Sets state.saved. Every rank calls it, with the same
// step; `run` and `facts` are those of rank 0, whose run must be on a file system that all ranks see. A rank writes its
// rows and what belongs to them (Task::row_state), rank 0 all else (extra_state() and files() are asked there alone),
// at last the manifest, when the files of all ranks are durable. Where a rank fails all throw its Error, no new
// checkpoint is there, and the last one stays.
void save_checkpoint(const RunDirectory& run, Task& task, const OptimizerSet& optimizers, TrainerState& state,
                     const nlohmann::json& facts, int64_t keep_last, const Ranks& ranks = {});

// Throws Error (input) unless the checkpoint was trained on the data of this key.
void require_data(const CheckpointReader& checkpoint, const std::string& data_key);

// With any number of ranks, whatever number wrote it: a rank takes the rows that it holds, and all else. Throws Error
// (input) when the checkpoint is of another model or other data; where a rank fails, on all of them.
TrainerState load_checkpoint(const CheckpointReader& checkpoint, Task& task, const OptimizerSet& optimizers,
                             const Ranks& ranks = {});

// Parameters, buffers and tables alone, for use without training.
void load_model(const CheckpointReader& checkpoint, const torch::nn::Module& module,
                const std::vector<TablePtr>& tables);
void load_model(const CheckpointReader& checkpoint, Task& task);

}  // namespace loci
