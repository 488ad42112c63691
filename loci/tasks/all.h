// Every task that a recipe can name.
#pragma once

#include <vector>

#include "loci/train/task.h"

namespace loci {

const std::vector<TaskKind>& all_tasks();

}  // namespace loci
