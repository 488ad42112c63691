// A table in a checkpoint: a base, and what changed since.
//
//   table.NAME.safetensors                    base: the rows when it was written
//   optimizer.NAME.safetensors                base of the row optimiser's state
//   counters.NAME.safetensors                 base of what a task counts of the rows, where it does
//   table.NAME.delta-STEP.safetensors ...     rows changed up to STEP: row [U], values [U, D], their state and counters
//
// The manifest's member "tables" names a table's files in the order in which they are applied. Base and earlier deltas
// are hard links into the checkpoint before, so each checkpoint is complete and costs what changed. Once the deltas
// together are more than half of the base, a new base is written; a table of less than 1 MiB is written anew each time.
#pragma once

#include <nlohmann/json.hpp>

#include <optional>

#include "loci/optim/row_optimizer.h"
#include "loci/train/checkpoint_folder.h"
#include "loci/train/task.h"
#include "loci/train/tensor_file.h"

namespace loci {

std::string base_file(const std::string& table);

// Writes the table into a checkpoint; `before` is the one that the table's marks of changed rows count from. Returns
// the table's entry of the manifest.
nlohmann::json save_table(CheckpointWriter& writer, int64_t step, const RowOptimizer& rows,
                          const std::optional<CheckpointFiles>& before, const RowState& counters = {});

// Copies the rows, and with `rows` the optimiser's state and the counters, into tensors that exist. A served table of
// this checkpoint's base needs its deltas alone. Afterwards no row counts as changed. Throws Error (input).
void load_table(const CheckpointReader& checkpoint, Table& table, const RowOptimizer* rows = nullptr,
                const NamedTensors& counters = {});

// Throws Error (input) when the checkpoint has a table that is not among these.
void refuse_other_tables(const CheckpointReader& checkpoint, const std::vector<TablePtr>& tables);

}  // namespace loci
