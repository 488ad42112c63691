// The search of L tokens at once, one in each lane, by networks (lane_lists_kernel.h). For kernel files alone.
//
// Legend: L lanes, P entries of a list (8, 16 or 32), K top_k (at most P), n1, n2 sub-keys of the halves.
#pragma once

#include "loci/ops/product_key_select/lane_lists_kernel.h"
#include "loci/ops/product_key_select/product_key_select_kernel.h"

namespace loci::LOCI_LEVEL {
namespace {

constexpr int64_t kMostInLane = 32;  // of K
// Of n1 and n2: more are searched faster one token at a time (measured; random scores).
#if defined(__AVX512F__)
constexpr int64_t kMostHalfInLane = 2048;
#elif defined(__AVX2__)
constexpr int64_t kMostHalfInLane = 128;
#else
constexpr int64_t kMostHalfInLane = 4096;
#endif

bool lanes_take(const ProductKeySelectShape& shape) {
  return shape.top_k <= kMostInLane && shape.n1 <= kMostHalfInLane && shape.n2 <= kMostHalfInLane &&
         shape.addresses >= shape.n2;
}

// Floats that best_of takes: halves of halves, each rounded up to P.
int64_t lanes_room(const ProductKeySelectShape& shape) {
  return (most_of(shape.n1, shape.n2) + 16 * kMostInLane) * kLanes;
}

// Lanes whose first `count` values are finite and fall, each by some step.
LaneKeys falling(const LaneEntry* list, int64_t count) {
  LaneKeys good = (list[0].value < -kLowest) & (list[count - 1].value > kLowest);
  for (int64_t r = 0; r + 1 < count; ++r) good &= list[r].value > list[r + 1].value;
  return good;
}

// Lanes whose list is beyond doubt: all other scores are below its last. NaN is not, and where the networks lost one
// they have some score twice.
LaneKeys certain(const LaneEntry* list, int64_t keep, const float* score, int64_t stride, int64_t n) {
  const LaneScores last = list[keep - 1].value;
  LaneKeys below{};
  for (int64_t i = 0; i < n; ++i) {
    const LaneScores value = load<LaneScores>(score + i * stride);
#if defined(__AVX512F__)
    const __m512i all = reinterpret_cast<__m512i>(below);
    below = reinterpret_cast<LaneKeys>(
        _mm512_mask_add_epi32(all, _mm512_cmp_ps_mask(value, last, _CMP_LT_OQ), all, _mm512_set1_epi32(1)));
#else
    below -= value < last;
#endif
  }
  return falling(list, keep) & (below == splat(n - keep));
}

// Rounded sums of the pairs that may be among the best P, and their addresses: (a, b) with (a + 1) (b + 1) <= P. They
// come as falling lists: the first row and the first column, the second ones, and a few that are sorted. Returns the
// largest of what is not among `best`.
template <int P>
LaneScores best_sums(const LaneEntry* first, const LaneEntry* second, LaneEntry* best) {
  const LaneEntry none = {splat(kLowest), LaneKeys{}};
  const auto sum = [&](int a, int b) {
    return LaneEntry{first[a].value + second[b].value, first[a].place + second[b].place};
  };
  LaneEntry column[P], inner[P], rest[P];
  for (int b = 0; b < P; ++b) best[b] = sum(0, b);
  for (int a = 1; a < P; ++a) column[a - 1] = sum(a, 0);
  column[P - 1] = none;
  LaneScores lost = absorb<P>(best, column, splat(kLowest));

  for (int i = 0; i < P / 2; ++i) inner[i] = i + 1 < P / 2 ? sum(1, i + 1) : none;
  for (int i = 0; i < P / 2; ++i) inner[P - 1 - i] = i + 2 < P / 2 ? sum(i + 2, 1) : none;
  merge<P>(inner);

  int count = 0;
  for (int a = 2; 3 * (a + 1) <= P; ++a) {
    for (int b = 2; (a + 1) * (b + 1) <= P; ++b) rest[count++] = sum(a, b);
  }
  if (count > 0) {
    while (count < P) rest[count++] = none;
    sort<P>(rest);
    lost = absorb<P>(inner, rest, lost);
  }
  return absorb<P>(best, inner, lost);
}

// Lane l has score1[i * stride + l]. Returns a bit for each lane whose result stands in best[0 .. K).
template <int P>
uint64_t search_lanes(const ProductKeySelectShape& shape, const float* score1, const float* score2, int64_t stride,
                      LaneEntry* best, float* room) {
  LaneEntry first[P], second[P];
  const int64_t K = shape.top_k, full = shape.addresses / shape.n2, rest = shape.addresses - full * shape.n2;
  LaneKeys good = splat(int64_t{-1});
  const auto find = [&](LaneEntry* list, const float* score, int64_t n) {
    best_of<P>(score, stride, n, list, room);
    good &= certain(list, least_of(K, n), score, stride, n);
  };
  find(first, score1, full);
  find(second, score2, shape.n2);
  for (int a = 0; a < P; ++a) first[a].place *= static_cast<int32_t>(shape.n2);
  LaneScores lost = best_sums<P>(first, second, best);
  if (rest > 0) {  // the row of addresses that is not complete
    const LaneScores row = load<LaneScores>(score1 + full * stride);
    find(second, score2, rest);
    for (int b = 0; b < P; ++b) second[b] = {second[b].value + row, second[b].place + splat(full * shape.n2)};
    good &= (row < -kLowest) & (row > kLowest);
    lost = absorb<P>(best, second, lost);
  }
  good &= falling(best, K) & (best[K - 1].value > (K < P ? best[K < P ? K : 0].value : lost));
  return lane_bits(good);
}

}  // namespace
}  // namespace loci::LOCI_LEVEL
