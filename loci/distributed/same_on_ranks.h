// What ranks must agree on before they work together.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "loci/distributed/collectives.h"

namespace loci {

// Every rank gives the same facts by name, in one order. Throws Error (usage) on all ranks where a value differs: it
// names the first rank that differs from rank 0, and the first such fact. Of a text of several lines, the line.
void require_same(const Ranks& ranks, const std::vector<std::pair<std::string, std::string>>& facts);

}  // namespace loci
