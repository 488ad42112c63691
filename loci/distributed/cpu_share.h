// Which CPUs of a host a rank runs on.
//
// A rank sleeps while its messages travel. Its threads that receive them, and then itself, would often be woken on a
// CPU that is busy with another rank and wait there for the end of that one's time slice, at every message.
#pragma once

#include <cstdint>
#include <vector>

namespace loci {

// The rank-th of `ranks` shares of `cpus`, which differ by one CPU at most. All of `cpus` where there are more ranks
// than these, and where the host has more CPUs: then somebody has bound the process already.
std::vector<int> cpu_share(const std::vector<int>& cpus, int64_t cpus_of_host, int64_t rank, int64_t ranks);

// Keeps this thread, and those that it starts from now on, on its share of the CPUs that it may use.
void take_cpu_share(int64_t rank, int64_t ranks);

}  // namespace loci
