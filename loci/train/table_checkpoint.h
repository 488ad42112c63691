// A table in a checkpoint: a base, and what changed since.
//
//   table.NAME.safetensors                    base: the rows when it was written
//   optimizer.NAME.safetensors                base of the row optimiser's state
//   counters.NAME.safetensors                 base of what a task counts of the rows, where it does
//   table.NAME.delta-STEP.safetensors ...     rows changed up to STEP: row [U], values [U, D], their state and counters
//
// The manifest's member "tables" names a table's files in the order in which they are applied. Base and earlier deltas
// are hard links into the previous checkpoint, so each checkpoint is complete and takes only the disk of what changed.
// Once the deltas together are more than half of the base, a new base is written. A table of less than 1 MiB is always
// written as a new base.
#pragma once

#include <nlohmann/json.hpp>

#include <optional>

#include "loci/optim/row_optimizer.h"
#include "loci/table/table.h"
#include "loci/train/checkpoint_folder.h"
#include "loci/train/task.h"
#include "loci/train/tensor_file.h"

namespace loci {

std::string base_file(const std::string& table);

// Writes the optimiser's rows and state, and what a task counts of the rows, into a checkpoint. `before`: the
// checkpoint since which the rows count as changed. Returns the table's entry of the manifest.
nlohmann::json save_table(CheckpointWriter& writer, int64_t step, const RowOptimizer& optimizer,
                          const std::optional<CheckpointFiles>& before, const RowCounters& counters = {});

// Writes the rows alone, as a new base of the table `name`. Returns the table's entry of the manifest.
nlohmann::json save_rows(CheckpointWriter& writer, const RowStore& rows, const std::string& name);

// Copies the rows, and with `optimizer` its state and the counters, into the tensors that exist. Rows that are mapped
// from this checkpoint's base get its deltas alone. Afterwards no row counts as changed. Throws Error (input).
void load_table(const CheckpointReader& checkpoint, RowStore& rows, const RowOptimizer* optimizer = nullptr,
                const NamedTensors& counters = {});

// Throws Error (input) when the checkpoint has a table that is not among these.
void refuse_other_tables(const CheckpointReader& checkpoint, const std::vector<TablePtr>& tables);

}  // namespace loci
