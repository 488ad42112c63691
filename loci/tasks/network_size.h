// What training a network of images takes, before anything is allocated.
#pragma once

#include "loci/models/map_memory_options.h"
#include "loci/train/task.h"

namespace loci {

// Without a memory, activations and data.
RunSize network_size(int64_t parameters_dense, int64_t multiply_adds, const BatchShape& batch);
// A memory's table of rows `width` wide, its optimiser's state and its counters.
void add_map_memory(RunSize& size, const MapMemoryOptions& memory, int64_t width, const RowOptimizerOptions& rows);
// `bytes` of one unit of a batch that backward keeps.
void add_activations(RunSize& size, double bytes, const BatchShape& batch);

}  // namespace loci
