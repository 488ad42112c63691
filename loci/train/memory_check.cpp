#include "loci/train/memory_check.h"

#include <algorithm>
#include <limits>

#include "loci/base/check.h"
#include "loci/base/progress.h"

namespace loci {
namespace {

constexpr int64_t kSmallestShare = 100;  // purposes of less than a hundredth are shown together

}  // namespace

int64_t total_bytes(const MemoryEstimate& estimate) {
  int64_t total = 0;
  for (const auto& [purpose, bytes] : estimate) {
    if (__builtin_add_overflow(total, bytes, &total)) return std::numeric_limits<int64_t>::max();
  }
  return total;
}

int64_t program_bytes(int64_t threads) {
  // Measured with torch 2.13: 20 MiB of its code are first touched by a training step, and its matrix products and the
  // allocator keep about 8 MiB of buffers a thread.
  constexpr int64_t code = int64_t{20} << 20;
  constexpr int64_t buffers = int64_t{8} << 20;
  return resident_bytes() + code + threads * buffers;
}

MemoryEstimate memory_of_parameters(const RunSize& size, const Ranks& ranks) {
  const auto bytes = [](int64_t parameters) {
    int64_t result = 0;
    return __builtin_mul_overflow(parameters, int64_t{4}, &result) ? std::numeric_limits<int64_t>::max() : result;
  };
  MemoryEstimate estimate = {{"dense parameters", bytes(size.parameters_dense)}};
  const int64_t tables = bytes(size.parameters_table) / ranks.size;
  if (ranks.size > 1 || (size.disk.empty() && tables <= available_bytes() / 2)) estimate.emplace_back("tables", tables);
  return estimate;
}

void require_disk(const std::string& who, const std::filesystem::path& folder, const MemoryEstimate& estimate) {
  if (estimate.empty()) return;
  std::error_code error;
  std::filesystem::path existing = std::filesystem::absolute(folder, error);
  while (!std::filesystem::exists(existing, error) && existing.has_relative_path()) existing = existing.parent_path();
  const auto space = std::filesystem::space(existing, error);
  if (error || total_bytes(estimate) <= static_cast<int64_t>(space.available)) return;  // an unknown disk tells itself
  fail(ExitCode::resources, who,
       fmt::format("the mapped tables must fit into {} of disk", format_bytes(static_cast<double>(space.available))),
       memory_text(estimate));
}

std::string memory_text(const MemoryEstimate& estimate) {
  MemoryEstimate sorted = estimate;
  std::stable_sort(sorted.begin(), sorted.end(), [](const auto& a, const auto& b) { return a.second > b.second; });
  const int64_t total = total_bytes(estimate);
  std::string text;
  int64_t others = 0;
  const auto add = [&text](const std::string& purpose, int64_t bytes) {
    text += fmt::format("{}{} {}", text.empty() ? "" : ", ", purpose, format_bytes(static_cast<double>(bytes)));
  };
  for (const auto& [purpose, bytes] : sorted) {
    if (bytes >= total / kSmallestShare && bytes > 0) {
      add(purpose, bytes);
    } else {
      others += bytes;
    }
  }
  if (others > 0) add("others", others);
  return fmt::format("{} ({})", format_bytes(static_cast<double>(total)), text);
}

void require_memory(const std::string& who, const MemoryEstimate& estimate) {
  const int64_t can_have = available_bytes() + resident_bytes();
  if (total_bytes(estimate) <= can_have) return;
  fail(ExitCode::resources, who,
       fmt::format("the run must fit into {} of memory", format_bytes(static_cast<double>(can_have))),
       memory_text(estimate));
}

}  // namespace loci
