// Every task that a recipe can name, and the verbs that it brings to the command line.
#pragma once

#include <vector>

#include "loci/train/task.h"

namespace loci {

const std::vector<TaskKind>& all_tasks();

}  // namespace loci
