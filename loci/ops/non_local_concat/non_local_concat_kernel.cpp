#include "loci/ops/non_local_concat/non_local_concat_kernel.h"

namespace loci::LOCI_LEVEL {
namespace {

constexpr int64_t kAhead = 6;  // keys whose values are fetched while others are summed

// <x, other> in 8 partial sums, the same at every level.
inline double dot_of(const double* __restrict x, const float* __restrict other, int64_t columns) {
  double sum[8] = {};
  int64_t c = 0;
  for (; c + 8 <= columns; c += 8) {
    for (int64_t i = 0; i < 8; ++i) sum[i] += x[c + i] * static_cast<double>(other[c + i]);
  }
  for (int64_t i = 0; c + i < columns; ++i) sum[i] += x[c + i] * static_cast<double>(other[c + i]);
  return ((sum[0] + sum[4]) + (sum[2] + sum[6])) + ((sum[1] + sum[5]) + (sum[3] + sum[7]));
}

// kColumns: 0 for those of the walk. kProducts: whether P1 is wanted.
template <int64_t kColumns, bool kProducts>
void walk_slice(const ReluWalk& w) {
  const int64_t columns = kColumns > 0 ? kColumns : w.columns;
  alignas(64) double p0[kWalkColumns] = {}, p1[kWalkColumns] = {};
  int64_t key = 0;
  for (int64_t q = 0; q < w.N; ++q) {
    const int64_t i = w.a_order[q];
    const float a = w.a[i];
    for (; key < w.M; ++key) {
      const int64_t j = w.b_order[key];
      if (w.b[j] <= -a) break;
      if (key + kAhead < w.M) {
        const float* next = w.g + w.b_order[key + kAhead] * w.stride;
        for (int64_t c = 0; c < columns; c += 16) __builtin_prefetch(next + c);
      }
      const float* __restrict g = w.g + j * w.stride;
      const double b = w.b[j];
      for (int64_t c = 0; c < columns; ++c) {
        const double value = g[c];
        p0[c] += value;
        if (kProducts) p1[c] += b * value;  // exact product of two float32
      }
    }
    if (kProducts) {
      float* __restrict y = w.y + i * w.stride;
      for (int64_t c = 0; c < columns; ++c) {
        y[c] = static_cast<float>(w.scale * (static_cast<double>(a) * p0[c] + p1[c]));
      }
    }
    if (w.dot != nullptr) w.dot[i] = w.scale * dot_of(p0, w.other + i * w.stride, columns);
  }
}

void walk(const ReluWalk& w) {
  const bool whole = w.columns == kWalkColumns;
  if (w.y != nullptr) return whole ? walk_slice<kWalkColumns, true>(w) : walk_slice<0, true>(w);
  return whole ? walk_slice<kWalkColumns, false>(w) : walk_slice<0, false>(w);
}

}  // namespace

const NonLocalConcatKernel non_local_concat_kernel = {walk};

}  // namespace loci::LOCI_LEVEL
