// A table in a checkpoint: a base, and what changed since.
//
//   base       the rows when it was written; beside it what the row optimiser keeps of them, and what a task counts
//   deltas     each: rows changed up to a step: row [U], values [U, D], their state and counters
//
// Names of files, and parts that several processes write: table_parts.h. The manifest's member "tables" names a table's
// files in the order in which they are applied. Base and earlier deltas are hard links into the previous checkpoint, so
// each checkpoint is complete and takes only the disk of what changed. Once the deltas together are more than half of
// the base, a new base is written. Less than 1 MiB of rows is always written as a new base. All this is true of each
// part by itself. A checkpoint can be read with any number of processes.
#pragma once

#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "loci/distributed/collectives.h"
#include "loci/optim/row_optimizer.h"
#include "loci/table/table.h"
#include "loci/train/checkpoint_folder.h"
#include "loci/train/table_parts.h"
#include "loci/train/task.h"
#include "loci/train/tensor_file.h"

namespace loci {

// Writes the optimiser's rows and state, and what a task counts of the rows, into a checkpoint. `before`: the
// checkpoint since which the rows count as changed. Returns the table's entry of the manifest: for several ranks that
// of the part which the rows here are, null for no rows (entry_of_parts()).
nlohmann::json save_table(CheckpointPart& writer, int64_t step, const RowOptimizer& optimizer,
                          const std::optional<CheckpointFiles>& before, const RowCounters& counters = {},
                          const Ranks& ranks = {});

// Writes the rows alone, as a new base of the table `name`. Returns the table's entry of the manifest.
nlohmann::json save_rows(CheckpointPart& writer, const RowStore& rows, const std::string& name);

// Copies the rows or columns that are in this process, and with `optimizer` its state and the counters of
// Table::own_rows(), into the tensors that exist. Rows that are mapped from this checkpoint's base get its deltas
// alone. Afterwards no row counts as changed. Throws Error (input).
void load_table(const CheckpointReader& checkpoint, Table& table, const RowOptimizer* optimizer = nullptr,
                const NamedTensors& counters = {});

// The rows of a table mapped from the files of a checkpoint, deltas applied: a store for each part, whose rows are
// numbered from its first one on.
std::vector<std::shared_ptr<RowStore>> served_parts(const CheckpointReader& checkpoint, const std::string& table);

// Throws Error (input) when the checkpoint has a table that is not among these.
void refuse_other_tables(const CheckpointReader& checkpoint, const std::vector<TablePtr>& tables);

}  // namespace loci
