// How a C++ program joins the processes that `torchrun --no-python` started with it. Python has its groups from
// torch.distributed and passes their names (ranks_of in collectives.h).
#pragma once

#include <chrono>
#include <memory>

#include "loci/distributed/collectives.h"

namespace loci {

// Whether a starter such as torchrun has given this process a rank: RANK and WORLD_SIZE are set.
bool has_rank();

// How many of the ranks are on this host (LOCAL_WORLD_SIZE); 1 where nothing says so.
int64_t ranks_of_host();

class ProcessGroup {
 public:
  // Joins by RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT; every process of the world does so. A call that waits
  // longer than `timeout` for the others fails. Where several ranks are on this host (LOCAL_RANK, LOCAL_WORLD_SIZE),
  // each keeps to its share of the CPUs (cpu_share.h). Throws Error: usage for variables that are missing or wrong,
  // peer when the others do not come, resources when the port is taken.
  explicit ProcessGroup(std::chrono::milliseconds timeout);

  const Ranks& ranks() const { return ranks_; }

 private:
  Ranks ranks_;
  std::shared_ptr<void> group_;
};

}  // namespace loci
