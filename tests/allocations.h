// Which allocations of tensors a function makes on the calling thread.
#pragma once

#include <ATen/record_function.h>
#include <c10/core/Allocator.h>
#include <c10/util/ThreadLocalDebugInfo.h>

#include <algorithm>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

namespace loci {

class AllocationLog : public c10::MemoryReportingInfoBase {
 public:
  void reportMemoryUsage(void*, int64_t bytes, size_t, size_t, c10::Device) override {
    if (bytes > 0) sizes.push_back(bytes);
  }
  bool memoryProfilingEnabled() const override { return true; }

  std::vector<int64_t> sizes;
};

inline std::vector<int64_t> allocations_of(const std::function<void()>& run) {
  const auto log = std::make_shared<AllocationLog>();
  const c10::DebugInfoGuard guard(c10::DebugInfoKind::PROFILER_STATE, log);
  run();
  return log->sizes;
}

}  // namespace loci
