#include "loci/nn/small/subset_backprop.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/index_select.h>
#include <ATen/ops/ones.h>
#include <c10/util/Exception.h>
#include <torch/library.h>

#include <algorithm>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "loci/nn/small/straight_through.h"

// Legend: N rows, H of them kept, B rows of one call of `embed`.

namespace loci {
namespace {

using at::Tensor;

Tensor embedded(const Tensor& rows, const EmbedRows& embed, const char* who) {
  Tensor y = embed(rows);
  TORCH_CHECK(y.dim() > 0 && y.size(0) == rows.size(0), who, ": embed must give one row for each of its ", rows.size(0),
              ", got ", y.sizes());
  return y;
}

void check_rows(const Tensor& rows, int64_t chunk, const char* who) {
  TORCH_CHECK(rows.dim() > 0 && rows.size(0) > 0, who, ": rows must be [N, ...] with N >= 1, got ", rows.sizes());
  TORCH_CHECK(chunk >= 1, who, ": chunk must be at least 1, got ", chunk);
}

// The rows that `chosen` [H] leaves, ascending: [N - H].
Tensor others(int64_t rows, const Tensor& chosen) {
  return at::ones({rows}, at::kBool).index_fill(0, chosen, false).nonzero().squeeze(1);
}

}  // namespace

Tensor draw_subset(int64_t rows, int64_t kept, RandomSequence& random) {
  TORCH_CHECK(kept >= 0 && kept <= rows, "draw_subset: kept must be in 0 .. ", rows, ", got ", kept);
  std::vector<int64_t> order(static_cast<size_t>(rows));
  std::iota(order.begin(), order.end(), 0);
  for (int64_t i = 0; i < kept; ++i) {
    const auto other = random.between(static_cast<uint64_t>(i), static_cast<uint64_t>(rows - 1));
    std::swap(order[static_cast<size_t>(i)], order[other]);
  }
  std::sort(order.begin(), order.begin() + kept);
  const Tensor chosen = at::empty({kept}, at::kLong);
  std::copy_n(order.begin(), kept, chosen.mutable_data_ptr<int64_t>());
  return chosen;
}

Tensor embed_in_chunks(const Tensor& rows, const EmbedRows& embed, int64_t chunk) {
  check_rows(rows, chunk, "embed_in_chunks");
  const at::NoGradGuard guard;
  Tensor y;
  for (int64_t first = 0; first < rows.size(0); first += chunk) {
    const int64_t count = std::min(chunk, rows.size(0) - first);
    const Tensor part = embedded(rows.narrow(0, first, count), embed, "embed_in_chunks");
    if (count == rows.size(0)) return part;
    if (!y.defined()) {
      std::vector<int64_t> sizes = part.sizes().vec();
      sizes[0] = rows.size(0);
      y = at::empty(sizes, part.options());
    }
    y.narrow(0, first, count).copy_(part);
  }
  return y;
}

Tensor subset_backprop(const Tensor& rows, const EmbedRows& embed, const SubsetOptions& options,
                       RandomSequence& random) {
  const char* const who = "subset_backprop";
  check_rows(rows, options.chunk, who);
  const int64_t N = rows.size(0), H = options.kept;
  TORCH_CHECK(H >= 1 && H <= N, who, ": kept must be in 1 .. ", N, " (the rows), got ", H);
  const Tensor on_cpu = draw_subset(N, H, random);
  if (H == N) return embedded(rows, embed, who);
  // The kept rows come first: autocast of older releases used casts of weights again that were made without gradient.
  const Tensor chosen = on_cpu.to(rows.device());
  const Tensor embedded_rows = embedded(rows.index_select(0, chosen), embed, who);  // [H, ...]
  const Tensor kept =
      options.scale ? scale_gradient(embedded_rows, static_cast<double>(N) / static_cast<double>(H)) : embedded_rows;
  std::vector<int64_t> sizes = kept.sizes().vec();
  sizes[0] = N;
  const Tensor values = at::empty(sizes, kept.options());  // [N, ...]
  {
    const at::NoGradGuard guard;
    for (const Tensor& part : others(N, on_cpu).to(rows.device()).split(options.chunk)) {
      values.index_copy_(0, part, embedded(rows.index_select(0, part), embed, who));
    }
  }
  return values.index_copy(0, chosen, kept);
}

// For Python, which keeps the position itself.
TORCH_LIBRARY_FRAGMENT(loci, m) {
  m.def("draw_subset(int rows, int kept, int seed, str stream, int position) -> Tensor",
        [](int64_t rows, int64_t kept, int64_t seed, const std::string& stream, int64_t position) {
          RandomSequence random(CounterRandom(static_cast<uint64_t>(seed), stream), static_cast<uint64_t>(position));
          return draw_subset(rows, kept, random);
        });
}

}  // namespace loci
