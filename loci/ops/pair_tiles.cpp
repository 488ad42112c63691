#include "loci/ops/pair_tiles.h"

#include <ATen/Parallel.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/baddbmm.h>

#include <algorithm>

namespace loci {

using at::Tensor;

namespace {

constexpr int64_t kTileCost = int64_t{1} << 20;  // multiply-adds worth a task: about 20 microseconds

bool is_dense_matrix(const Tensor& x) {
  const int64_t rows = x.size(1), columns = x.size(2), across = x.stride(1), along = x.stride(2);
  const auto dense = [](int64_t step, int64_t width, int64_t inner) {
    return inner == 1 && step >= std::max<int64_t>(1, width);
  };
  return dense(across, columns, along) || dense(along, rows, across);
}

}  // namespace

Tensor PairTile::of(const Tensor& x) const {
  return x.narrow(0, first, samples).narrow(1, row, rows);
}

Tensor PairTile::whole(const Tensor& x) const {
  return x.narrow(0, first, samples);
}

int64_t even_tile(int64_t size, int64_t most) {
  constexpr int64_t lanes = 8;
  if (size <= most) return std::max<int64_t>(1, size);
  int64_t count = (size + most - 1) / most;
  count += count % 2;
  return ((size + count - 1) / count + lanes - 1) / lanes * lanes;
}

void run_pair_tasks(int64_t count, const std::function<void(int64_t task)>& work) {
  // Two at least: a single one would run outside a parallel region, where a product of matrices takes all threads.
  at::parallel_for(0, std::max<int64_t>(2, count), 1, [&](int64_t begin, int64_t end) {
    const at::AutoDispatchBelowADInplaceOrView below_autograd;  // other threads do not inherit the caller's
    for (int64_t task = begin; task < std::min(end, count); ++task) work(task);
  });
}

void for_each_pair_tile(int64_t B, int64_t N, int64_t rows_at_once, int64_t row_cost,
                        const std::function<void(const PairTile&)>& work) {
  if (B == 0 || N == 0) return;
  const int64_t worth = kTileCost / std::max<int64_t>(1, row_cost);  // rows
  const int64_t rows = even_tile(N, std::max(rows_at_once, worth / rows_at_once * rows_at_once));
  const int64_t samples = rows < N ? 1 : std::clamp<int64_t>(worth / N, 1, B);
  const int64_t across = (N + rows - 1) / rows, along = (B + samples - 1) / samples;
  run_pair_tasks(across * along, [&](int64_t task) {
    const int64_t first = task / across * samples, row = task % across * rows;
    work({first, std::min(samples, B - first), row, std::min(rows, N - row)});
  });
}

Tensor as_matrices(const Tensor& x) {
  return x.numel() == 0 || is_dense_matrix(x) ? x : x.contiguous();
}

void product_into(const Tensor& out, const Tensor& a, const Tensor& b, double scale, bool add) {
  Tensor to = out;
  if (a.size(0) == 1) {
    to = to.select(0, 0);
    at::addmm_out(to, to, a.select(0, 0), b.select(0, 0), add ? 1 : 0, scale);
  } else {
    at::baddbmm_out(to, to, a, b, add ? 1 : 0, scale);
  }
}

}  // namespace loci
