// The cases of weights chosen among fixed random values.
#pragma once

#include <vector>

#include "bench/cases.h"

namespace loci::bench {

std::vector<Case> reel_cases();

}  // namespace loci::bench
