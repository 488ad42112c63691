#include "loci/distributed/cpu_share.h"

#include <sched.h>
#include <unistd.h>

namespace loci {

std::vector<int> cpu_share(const std::vector<int>& cpus, int64_t cpus_of_host, int64_t rank, int64_t ranks) {
  const auto count = static_cast<int64_t>(cpus.size());
  if (ranks > count || count < cpus_of_host) return cpus;
  return {cpus.begin() + count * rank / ranks, cpus.begin() + count * (rank + 1) / ranks};
}

void take_cpu_share(int64_t rank, int64_t ranks) {
  cpu_set_t allowed;
  if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) return;  // more CPUs than a cpu_set_t holds
  std::vector<int> cpus;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (CPU_ISSET(cpu, &allowed)) cpus.push_back(cpu);
  }
  cpu_set_t share;
  CPU_ZERO(&share);
  for (const int cpu : cpu_share(cpus, sysconf(_SC_NPROCESSORS_ONLN), rank, ranks)) CPU_SET(cpu, &share);
  sched_setaffinity(0, sizeof share, &share);  // only speed depends on it
}

}  // namespace loci
