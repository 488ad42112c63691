// What ranks do together: each knows what the others say, and an error of one is an error of all.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "loci/distributed/collectives.h"

namespace loci {

// The text of each rank, in the order of ranks, on all of them. Every rank calls it.
std::vector<std::string> gather_texts(const Ranks& ranks, const std::string& text);

// Runs `action`, which every rank does at this point, and waits for the others. Where it threw on some ranks, all throw
// Error with the code of the lowest of these ranks and the text "rank R: MESSAGE". Exceptions other than Error become
// one: resources where memory is missing, otherwise bug. An Error (peer) is thrown at once, for the ranks that it is
// about cannot answer; the others get one of their own. With one rank an exception is thrown as it is.
void together(const Ranks& ranks, const std::function<void()>& action);

}  // namespace loci
