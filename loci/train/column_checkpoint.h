// The part of a checkpoint that a table in parts by columns becomes.
#pragma once

#include <nlohmann/json.hpp>

#include "loci/distributed/collectives.h"
#include "loci/optim/row_optimizer.h"
#include "loci/train/checkpoint_folder.h"
#include "loci/train/task.h"

namespace loci {

// For all ranks together: each gets an equal part of the rows, whole, from all of them in blocks, and writes it as a
// new base, so that the checkpoint is like one of a table by rows (save_table). counters: of these rows, which are
// Table::own_rows(). An error of this rank is thrown when all rows are exchanged. Returns the part's entry of the
// manifest, null for no rows.
nlohmann::json save_columns(CheckpointPart& writer, const RowOptimizer& optimizer, const RowCounters& counters,
                            const Ranks& ranks);

}  // namespace loci
