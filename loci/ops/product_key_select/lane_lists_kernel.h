// The search of many tokens side by side, one in each lane of a vector. For kernel files alone.
//
// Lists are ordered by networks of comparisons, which take no branch and no index. The best P of n scores are found by
// halving; here P = 2 and n = 8, entry i paired with entry i + 4:
//
//   entries    5  1  7  4 | 3  6  2  8
//   larger     5  6  7  8                  one of each pair
//   best 2     8  7                        of these four, by halving again or by sorting
//   partners   4  2                        what those two were paired with
//   result     the best 2 of 8 7 4 2
//
// None is missed: a score among the best P is the larger of its pair, and then among the best P of the larger ones, or
// the smaller, and then its partner is. Equal scores, infinities and NaN need an order that networks do not keep: such
// lanes are reported and searched one by one.
//
// Legend: L lanes, P entries of a list (8, 16 or 32), K top_k (at most P), n sub-keys of a half.
//
// Estimate in vector instructions for L searches: a comparison of two entries takes 5, a P-list is sorted in s = 19, 60
// or 200 of them and merged in m = P log2(P) / 2; a halving takes 5 (s + m + P) + 4 P and 2 P gathers, the last 2 P
// entries 10 s + 5 m + 4 P, the maxima 2 n, the certainty 3 n. Both lists and the sums, L = 16: 1,500 a search for
// n = 512 and K = 32, 440 for n = 128 and K = 16. Measured (`loci bench select_lanes`): 590 and 123 ns; one by one 950
// and 380.
#pragma once

#include "loci/ops/product_key_select/short_lists_kernel.h"

namespace loci::LOCI_LEVEL {
namespace {

using LaneScores = Lanes<float>::Scores;
using LaneKeys = Lanes<float>::Keys;
constexpr int64_t kLanes = Lanes<float>::lanes;
constexpr float kLowest = -__builtin_inff();

// Entries of L lists, one a lane: scores, and their positions in what is searched.
struct LaneEntry {
  LaneScores value;
  LaneKeys place;
};

LaneScores splat(float value) {
  return value - LaneScores{};
}

LaneKeys splat(int64_t place) {
  return LaneKeys{} + static_cast<int32_t>(place);
}

// Of equal ones, and where one is NaN, the second. (0xffff selects all lanes: the forms without a mask make GCC 12 warn
// of a vector that is not initialised.)
LaneScores larger_of(LaneScores a, LaneScores b) {
#if defined(__AVX512F__)
  return _mm512_maskz_max_ps(0xffff, a, b);
#elif defined(__AVX2__)
  return _mm256_max_ps(a, b);
#else
  return a > b ? a : b;
#endif
}

LaneScores smaller_of(LaneScores a, LaneScores b) {
#if defined(__AVX512F__)
  return _mm512_maskz_min_ps(0xffff, a, b);
#elif defined(__AVX2__)
  return _mm256_min_ps(a, b);
#else
  return a < b ? a : b;
#endif
}

// Places of the larger and of the smaller value, by lanes.
struct LanePlaces {
  LaneKeys larger, smaller;
};

LanePlaces places_of(const LaneEntry& a, const LaneEntry& b) {
#if defined(__AVX512F__)
  const __mmask16 less = _mm512_cmp_ps_mask(a.value, b.value, _CMP_LT_OQ);
  const __m512i one = reinterpret_cast<__m512i>(a.place), two = reinterpret_cast<__m512i>(b.place);
  return {reinterpret_cast<LaneKeys>(_mm512_mask_blend_epi32(less, one, two)),
          reinterpret_cast<LaneKeys>(_mm512_mask_blend_epi32(less, two, one))};
#else
  const LaneKeys less = a.value < b.value;
  return {less ? b.place : a.place, less ? a.place : b.place};
#endif
}

// The larger one goes into a.
void exchange(LaneEntry& a, LaneEntry& b) {
  const LanePlaces places = places_of(a, b);
  const LaneScores larger = larger_of(a.value, b.value);
  b = {smaller_of(a.value, b.value), places.smaller};
  a = {larger, places.larger};
}

LaneEntry larger_of(const LaneEntry& a, const LaneEntry& b) {
  return {larger_of(a.value, b.value), places_of(a, b).larger};
}

// from[at * stride] of each lane, kLowest where `at` reaches the bound.
LaneScores gather(const float* from, int64_t stride, LaneKeys at, int64_t bound) {
  const LaneKeys place = at * static_cast<int32_t>(stride) + Lanes<float>::first_lanes();
#if defined(__AVX512F__)
  const __mmask16 good = static_cast<__mmask16>(lane_bits(at < static_cast<int32_t>(bound)));
  return _mm512_mask_i32gather_ps(splat(kLowest), good, reinterpret_cast<__m512i>(place), from, 4);
#else
  LaneScores values;
  for (int64_t lane = 0; lane < kLanes; ++lane) values[lane] = at[lane] < bound ? from[place[lane]] : kLowest;
  return values;
#endif
}

struct Comparison {
  int larger, smaller;
};

// Green's network for 16 entries, and one of 19 comparisons for 8.
constexpr Comparison kSort16[] = {
    {0, 1},  {2, 3},  {4, 5},   {6, 7},   {8, 9},  {10, 11}, {12, 13}, {14, 15}, {0, 2},  {4, 6},   {8, 10},  {12, 14},
    {1, 3},  {5, 7},  {9, 11},  {13, 15}, {0, 4},  {8, 12},  {1, 5},   {9, 13},  {2, 6},  {10, 14}, {3, 7},   {11, 15},
    {0, 8},  {1, 9},  {2, 10},  {3, 11},  {4, 12}, {5, 13},  {6, 14},  {7, 15},  {5, 10}, {6, 9},   {3, 12},  {13, 14},
    {4, 8},  {7, 11}, {1, 2},   {1, 4},   {7, 13}, {2, 8},   {11, 14}, {2, 4},   {5, 6},  {9, 10},  {11, 13}, {3, 8},
    {7, 12}, {6, 8},  {10, 12}, {3, 5},   {7, 9},  {3, 4},   {5, 6},   {7, 8},   {9, 10}, {11, 12}, {6, 7},   {8, 9}};
constexpr Comparison kSort8[] = {{0, 1}, {2, 3}, {4, 5}, {6, 7}, {0, 2}, {1, 3}, {4, 6}, {5, 7}, {1, 2}, {5, 6},
                                 {0, 4}, {3, 7}, {1, 5}, {2, 6}, {1, 4}, {3, 6}, {2, 4}, {3, 5}, {3, 4}};

// Runs a network on entries held in registers; its comparisons are constants.
template <const auto& network, int size, int step = 0>
[[gnu::always_inline]] inline void run(LaneEntry (&entry)[size]) {
  constexpr int count = sizeof network / sizeof(Comparison);
  if constexpr (step < count) {
    exchange(entry[network[step].larger], entry[network[step].smaller]);
    run<network, size, step + 1>(entry);
  }
}

template <int size>
void copy(const LaneEntry* from, LaneEntry* to) {
#pragma GCC unroll 32
  for (int i = 0; i < size; ++i) to[i] = from[i];
}

// Sorts entries that first rise and then fall, or first fall and then rise, into falling order.
template <int size>
void merge(LaneEntry* list) {
  if constexpr (size > 16) {
    for (int i = 0; i < size / 2; ++i) exchange(list[i], list[i + size / 2]);
    merge<size / 2>(list);
    merge<size / 2>(list + size / 2);
  } else {
    LaneEntry entry[size];
    copy<size>(list, entry);
#pragma GCC unroll 5
    for (int apart = size / 2; apart > 0; apart /= 2) {
#pragma GCC unroll 16
      for (int i = 0; i < size; ++i) {
        if ((i & apart) == 0) exchange(entry[i], entry[i + apart]);
      }
    }
    copy<size>(entry, list);
  }
}

template <int size>
void sort(LaneEntry* list) {
  static_assert(size == 8 || size == 16 || size == 32);
  if constexpr (size == 32) {
    sort<16>(list);
    sort<16>(list + 16);
    for (int i = 0; i < 16; ++i) exchange(list[i], list[31 - i]);
    merge<16>(list);
    merge<16>(list + 16);
  } else {
    LaneEntry entry[size];
    copy<size>(list, entry);
    if constexpr (size == 16) run<kSort16>(entry);
    if constexpr (size == 8) run<kSort8>(entry);
    copy<size>(entry, list);
  }
}

// Leaves the best of two falling lists in `list`, falling. Returns the larger of `lost` and of all that was left out.
template <int size>
LaneScores absorb(LaneEntry* list, const LaneEntry* other, LaneScores lost) {
  for (int i = 0; i < size; ++i) {
    lost = larger_of(lost, smaller_of(list[i].value, other[size - 1 - i].value));
    list[i] = larger_of(list[i], other[size - 1 - i]);
  }
  merge<size>(list);
  return lost;
}

// The best P of L lists, falling, with their positions: lane l has value[i * stride + l]. room: count + 16 P vectors.
template <int P>
void best_of(const float* value, int64_t stride, int64_t count, LaneEntry* best, float* room) {
  LaneEntry others[P];
  const int64_t groups = (count + P - 1) / P;
  if (groups < 4) {
    for (int64_t group = 0; group < groups; ++group) {
      LaneEntry* const list = group == 0 ? best : others;
      for (int64_t i = 0; i < P; ++i) {
        const int64_t at = group * P + i;
        list[i] = {at < count ? load<LaneScores>(value + at * stride) : splat(kLowest), splat(at)};
      }
      sort<P>(list);
      if (group > 0) absorb<P>(best, others, splat(kLowest));
    }
    return;
  }
  // Halving: pairs are (i, i + half).
  const int64_t half = (groups + 1) / 2 * P;
  for (int64_t i = 0; i < half; ++i) {
    const LaneScores one = load<LaneScores>(value + i * stride);
    store(room + i * kLanes, i + half < count ? larger_of(one, load<LaneScores>(value + (i + half) * stride)) : one);
  }
  best_of<P>(room, kLanes, half, best, room + half * kLanes);
  for (int i = 0; i < P; ++i) {
    const LaneKeys pair = best[i].place;
    LaneEntry one = {gather(value, stride, pair, count), pair};
    others[i] = {gather(value, stride, pair + static_cast<int32_t>(half), count), pair + static_cast<int32_t>(half)};
    exchange(one, others[i]);
    best[i] = one;
  }
  sort<P>(others);
  absorb<P>(best, others, splat(kLowest));
}

}  // namespace
}  // namespace loci::LOCI_LEVEL
