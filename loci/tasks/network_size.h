// What a memory on feature maps adds to a run's memory, before anything is allocated.
#pragma once

#include "loci/models/map_memory_options.h"
#include "loci/train/task.h"

namespace loci {

// Tables of rows `width` wide, their optimiser's state and counters. Activations and dense parameters are the task's.
void add_map_memory(RunSize& size, const MapMemoryOptions& memory, int64_t width, const RowOptimizerOptions& rows);

}  // namespace loci
