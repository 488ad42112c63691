#include "loci/nn/memory/flat_key_memory.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "loci/base/check.h"
#include "loci/nn/initialise.h"
#include "loci/ops/product_key_select/product_key_select.h"
#include "loci/ops/table_read/table_project.h"

namespace loci {
namespace {

using at::Tensor;

constexpr int64_t kScoresAtOnce = int64_t{1} << 24;  // of [T, H, R] scores: 64 MiB in float32

// The rows of the K best scores, [T, H, K]. query [T, H, 2w], keys [H, R, 2w].
Tensor best_rows(const Tensor& query, const Tensor& keys, int64_t top_k) {
  const at::NoGradGuard guard;
  const int64_t tokens = query.size(0), heads = query.size(1), rows = keys.size(1);
  const int64_t chunk = std::max<int64_t>(1, kScoresAtOnce / (heads * rows));
  const Tensor transposed = keys.transpose(1, 2);  // [H, 2w, R]
  Tensor result = at::empty({tokens, heads, top_k}, query.options().dtype(at::kLong));
  for (int64_t begin = 0; begin < tokens; begin += chunk) {
    const int64_t count = std::min(chunk, tokens - begin);
    const Tensor part = query.narrow(0, begin, count).transpose(0, 1);               // [H, chunk, 2w]
    const Tensor score = at::matmul(part, transposed).transpose(0, 1).contiguous();  // [chunk, H, R]
    const Tensor zero = at::zeros({count, heads, 1}, score.options());
    result.narrow(0, begin, count).copy_(std::get<1>(product_key_select(zero, score, top_k, rows)));
  }
  return result;
}

int64_t flat_addresses(const TablePtr& table) {
  if (!table) fail(ExitCode::usage, "FlatKeyMemory", "table must be given", "none");
  return table->rows();
}

}  // namespace

FlatKeyMemory::FlatKeyMemory(const std::string& name, const MemoryLayerOptions& options, TablePtr table, uint64_t seed,
                             std::shared_ptr<QueryNet> query_net)
    : MemoryLayer("FlatKeyMemory", name, options, table, flat_addresses(table), seed, std::move(query_net)) {
  const int64_t heads = this->options().heads, half = half_width();
  keys = register_parameter("keys", uniform_start(seed, name + ".keys", {heads, table->rows(), 2 * half},
                                                  1 / std::sqrt(static_cast<double>(half))));
}

std::tuple<Tensor, Tensor> FlatKeyMemory::search(const Tensor& query) {
  const int64_t tokens = query.size(0), heads = query.size(1), rows = keys.size(1), width = keys.size(2);
  const int64_t top_k = options().top_k;
  const Tensor scaled =
      scaled_keys(keys.view({heads, rows, 2, width / 2}), query.scalar_type()).view({heads, rows, width});
  const Tensor flat = query.reshape({tokens, heads, width});
  const Tensor row = best_rows(flat, scaled, top_k);
  const Tensor key = row + at::arange(heads, row.options()).view({heads, 1}) * rows;  // among all heads' keys
  // The scores of the chosen rows alone, without gathering their keys.
  const Tensor score = table_project(scaled.reshape({heads * rows, width}), key.view({tokens * heads, top_k}),
                                     flat.view({tokens * heads, width}));
  return {score.view({tokens, heads, top_k}), row};
}

}  // namespace loci
