// Legend: T tokens, H heads, w width of half a query.
#include "loci/nn/memory/query_reservoir.h"

#include <ATen/ops/zeros.h>
#include <c10/core/InferenceMode.h>
#include <c10/util/Exception.h>
#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "loci/base/random.h"

namespace loci {

QueryReservoir::QueryReservoir(const ProductKeyMemory& memory, uint64_t seed, std::string name)
    : seed_(seed), name_(std::move(name)) {
  const c10::InferenceMode writable(false);
  queries_ = at::zeros({kSize, memory.options().heads, 2, memory.half_width()}, at::kFloat);
  seen_ = at::zeros({2}, at::kLong);
}

void QueryReservoir::begin(int64_t window) {
  seen_.mutable_data_ptr<int64_t>()[0] = 0;
  seen_.mutable_data_ptr<int64_t>()[1] = window;
}

void QueryReservoir::reads(const MemoryReads& reads) {
  const at::Tensor query = reads.query.to(at::kCPU, at::kFloat).contiguous();
  TORCH_CHECK(query.sizes().slice(1) == queries_.sizes().slice(1), "QueryReservoir: query must be [T, ...] with ",
              queries_.sizes().slice(1), ", got ", query.sizes());
  const auto width = static_cast<size_t>(queries_.stride(0));
  auto* const seen = seen_.mutable_data_ptr<int64_t>();
  const CounterRandom random(seed_, fmt::format("reservoir.{}.{}", name_, seen[1]));
  const float* from = query.const_data_ptr<float>();
  auto* const kept = queries_.mutable_data_ptr<float>();
  for (int64_t t = 0; t < query.size(0); ++t, from += width) {
    const auto number = static_cast<uint64_t>(seen[0]++);
    const uint64_t to = number < kSize ? number : random.below(number, number + 1);
    if (to < kSize) std::memcpy(kept + to * width, from, width * sizeof(float));
  }
}

int64_t QueryReservoir::size() const {
  return std::min(kSize, seen_.const_data_ptr<int64_t>()[0]);
}

std::vector<std::pair<std::string, at::Tensor>> QueryReservoir::state() {
  return {{"queries", queries_}, {"seen", seen_}};
}

}  // namespace loci
