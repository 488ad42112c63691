// Legend: T tokens, H heads, w width of half a query.
#include "loci/nn/memory/query_reservoir.h"

#include <ATen/ops/zeros.h>
#include <c10/core/InferenceMode.h>
#include <c10/util/Exception.h>
#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "loci/base/random.h"
#include "loci/ops/operator.h"

namespace loci {
namespace {

void sample_queries_of_python(const at::Tensor& queries, const at::Tensor& seen, const at::Tensor& query, int64_t seed,
                              const std::string& name) {
  sample_queries(queries, seen, query, static_cast<uint64_t>(seed), name);
}

}  // namespace

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

void sample_queries(const at::Tensor& queries, const at::Tensor& seen, const at::Tensor& query, uint64_t seed,
                    const std::string& name) {
  TORCH_CHECK(queries.dim() == 4 && queries.scalar_type() == at::kFloat && queries.is_contiguous(),
              "QueryReservoir: queries must be float32 [S, H, 2, w], got ", queries.scalar_type(), " ",
              queries.sym_sizes());
  TORCH_CHECK(seen.scalar_type() == at::kLong && seen.dim() == 1 && seen.sym_size(0) == 2,
              "QueryReservoir: seen must be int64 [2], got ", seen.scalar_type(), " ", seen.sym_sizes());
  TORCH_CHECK(query.dim() == 4 && query.sym_sizes().slice(1) == queries.sym_sizes().slice(1),
              "QueryReservoir: query must be [T, ...] with ", queries.sym_sizes().slice(1), ", got ",
              query.sym_sizes());
  TORCH_CHECK(seen.device() == queries.device() && (queries.is_cpu() || queries.is_meta()),
              "QueryReservoir: queries and seen must be on cpu, got ", queries.device(), " and ", seen.device());
  TORCH_CHECK(queries.is_meta() || !query.is_meta(), "QueryReservoir: query must have values, got a tensor on meta");
  if (queries.is_meta()) return;
  const at::Tensor from_all = query.to(at::kCPU, at::kFloat).contiguous();
  const auto width = static_cast<size_t>(queries.stride(0)), size = static_cast<size_t>(queries.size(0));
  auto* const count = seen.mutable_data_ptr<int64_t>();
  const CounterRandom random(seed, fmt::format("reservoir.{}.{}", name, count[1]));
  const float* from = from_all.const_data_ptr<float>();
  auto* const kept = queries.mutable_data_ptr<float>();
  for (int64_t t = 0; t < query.size(0); ++t, from += width) {
    const auto number = static_cast<uint64_t>(count[0]++);
    const uint64_t to = number < size ? number : random.below(number, number + 1);
    if (to < size) std::memcpy(kept + to * width, from, width * sizeof(float));
  }
}

void QueryReservoir::reads(const MemoryReads& reads) {
  sample_queries(queries_, seen_, reads.query, seed_, name_);
}

int64_t QueryReservoir::size() const {
  return std::min(kSize, seen_.const_data_ptr<int64_t>()[0]);
}

std::vector<std::pair<std::string, at::Tensor>> QueryReservoir::state() {
  return {{"queries", queries_}, {"seen", seen_}};
}

// For memories in Python, compiled ones too.
TORCH_LIBRARY_FRAGMENT(loci, m) {
  define_operator(m, "sample_queries_(Tensor(a!) queries, Tensor(b!) seen, Tensor query, int seed, str name) -> ()",
                  sample_queries_of_python, torch::CppFunction::makeFallthrough());
}
TORCH_LIBRARY_IMPL(loci, ADInplaceOrView, m) {
  m.impl("sample_queries_", moves_versions());
}

}  // namespace loci
