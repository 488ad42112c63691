// Which of a data set's parts are held out of training.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace loci {

// A part is held out when XXH3-128(name, seed) falls under `share`: a name keeps its side when others come or go. At
// least one is held out and at least one is not. Needs two names or more, all different.
std::vector<bool> held_out(const std::vector<std::string>& names, double share, int64_t seed);

}  // namespace loci
