// Random instances of a task, over lengths and tape sizes. Programs are observed and verified on them.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "loci/data/ram/ram_tasks.h"

namespace loci {

struct InstanceOptions {
  std::vector<int64_t> lengths = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 20, 35, 50};
  std::vector<uint32_t> slacks = {2, 10};  // cells beyond the task's minimum; used in turn
  int64_t instances = 2000;                // of each length
  uint64_t seed = 1;
};

// Lengths below the task's minimum are skipped. The instances of a length do not depend on the other lengths.
void for_each_instance(const RamTask& task, const InstanceOptions& options,
                       const std::function<void(int64_t length, RamInstance& instance)>& act);

}  // namespace loci
