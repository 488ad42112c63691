// The processes that torchrun started together (docs/distributed.md).
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "loci/distributed/process_group.h"

namespace loci::cli {

constexpr int64_t kPeerSeconds = 600;  // that a rank waits for the others

// Whether this process is one of several.
bool one_of_several_ranks();
// "loci", or which of the ranks this is.
std::string program_name();

// This process as one of those that torchrun started; without torchrun one rank.
class JoinedRanks {
 public:
  // Throws Error as ProcessGroup does.
  explicit JoinedRanks(int64_t seconds = kPeerSeconds);
  const Ranks& ranks() const { return ranks_; }
  bool leads() const { return ranks_.rank == 0; }  // it alone shows results and progress

 private:
  std::optional<ProcessGroup> group_;
  Ranks ranks_;
};

}  // namespace loci::cli
