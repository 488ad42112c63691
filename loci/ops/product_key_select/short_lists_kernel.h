// Lists of scores: their keys as vectors, their order by counting, the best of a list. For kernel files alone.
//
// A list is read twice: maxima of 2 K groups give a score that at least K entries reach, and the few entries that reach
// it are kept (about 1.5 K of random scores). Short lists are ordered by counting: an entry's place is the number of
// those before it, which takes no branch. Scores compare as integers of the same order (NaN on top, -0 = +0).
#pragma once

#include <stdint.h>

#include "loci/ops/vector_kernel.h"

namespace loci::LOCI_LEVEL {
namespace {

template <typename Score>
struct Ordered;

template <>
struct Ordered<float> {
  using Key = int32_t;
  typedef int32_t Keys __attribute__((vector_size(kVectorBytes)));
  typedef float Scores __attribute__((vector_size(kVectorBytes)));
  static constexpr Key most = INT32_MAX, least = INT32_MIN;
  static constexpr int sign_shift = 31;
};

template <>
struct Ordered<double> {
  using Key = int64_t;
  typedef int64_t Keys __attribute__((vector_size(kVectorBytes)));
  typedef double Scores __attribute__((vector_size(kVectorBytes)));
  static constexpr Key most = INT64_MAX, least = INT64_MIN;
  static constexpr int sign_shift = 63;
};

// One bit for each lane that is all ones.
#if defined(__AVX512F__)
uint64_t lane_bits(Ordered<float>::Keys mask) {
  return _mm512_movepi32_mask(reinterpret_cast<__m512i>(mask));
}
uint64_t lane_bits(Ordered<double>::Keys mask) {
  return _mm512_movepi64_mask(reinterpret_cast<__m512i>(mask));
}
#elif defined(__AVX2__)
uint64_t lane_bits(Ordered<float>::Keys mask) {
  return static_cast<uint64_t>(_mm256_movemask_ps(reinterpret_cast<__m256>(mask)));
}
uint64_t lane_bits(Ordered<double>::Keys mask) {
  return static_cast<uint64_t>(_mm256_movemask_pd(reinterpret_cast<__m256d>(mask)));
}
#else
template <typename Keys>
uint64_t lane_bits(Keys mask) {
  uint64_t bits = 0;
  for (size_t lane = 0; lane < sizeof(Keys) / sizeof(mask[0]); ++lane) bits |= uint64_t{mask[lane] != 0} << lane;
  return bits;
}
#endif

#if defined(__AVX512F__)
// The lanes of `bits`, in front.
template <typename Vector>
Vector compressed(Vector vector, uint64_t bits) {
  const __m512i all = reinterpret_cast<__m512i>(vector);
  if constexpr (sizeof(vector[0]) == 4) {
    return reinterpret_cast<Vector>(_mm512_maskz_compress_epi32(static_cast<__mmask16>(bits), all));
  } else {
    return reinterpret_cast<Vector>(_mm512_maskz_compress_epi64(static_cast<__mmask8>(bits), all));
  }
}
#endif

template <typename Vector, typename Value>
Vector load(const Value* from) {
  Vector vector;
  __builtin_memcpy(&vector, from, sizeof vector);
  return vector;
}

template <typename Vector, typename Value>
void store(Value* to, const Vector& vector) {
  __builtin_memcpy(to, &vector, sizeof vector);
}

int64_t least_of(int64_t a, int64_t b) {
  return a < b ? a : b;
}

int64_t most_of(int64_t a, int64_t b) {
  return a > b ? a : b;
}

// What all lists share: vectors, and the integers that scores compare as.
template <typename Score>
struct Lanes : Ordered<Score> {
  using typename Ordered<Score>::Key;
  using typename Ordered<Score>::Keys;
  using typename Ordered<Score>::Scores;
  static constexpr int64_t lanes = kVectorBytes / static_cast<int64_t>(sizeof(Score));
  static constexpr int64_t block = 2 * lanes;  // entries that are placed at once

  static int64_t padded(int64_t size) { return (size + block - 1) / block * block; }

  static Keys first_lanes() {  // 0, 1, 2 ...
    Keys keys;
    for (int64_t lane = 0; lane < lanes; ++lane) keys[lane] = static_cast<Key>(lane);
    return keys;
  }

  static Keys ordered(Scores scores) {
    scores = scores + Scores{};  // -0 becomes +0
    Keys keys;
    __builtin_memcpy(&keys, &scores, sizeof keys);
    keys ^= (keys >> Ordered<Score>::sign_shift) & Ordered<Score>::most;
    return scores == scores ? keys : Keys{} + Ordered<Score>::most;
  }

  // The score of a key; a NaN for `least`, which no score has.
  static Score score_of(Key key) {
    key ^= (key >> Ordered<Score>::sign_shift) & Ordered<Score>::most;
    Score score;
    __builtin_memcpy(&score, &key, sizeof score);
    return score;
  }

  static Key key_of(Score score) { return ordered(Scores{} + score)[0]; }

  // place[i] = how many of key[0 .. size) are larger; `least` follows the keys up to padded(size). Returns whether all
  // keys differ, for then the places are 0 .. size-1 and their sum tells.
  static bool rank_different(const Key* key, int64_t size, Key* place) {
    const int64_t end = (size + lanes - 1) / lanes * lanes;
    Keys sums{};
    int64_t i = 0;
    for (; i + block <= end; i += block) {
      const Keys one = load<Keys>(key + i), two = load<Keys>(key + i + lanes);
      Keys larger_one{}, larger_two{};
#pragma GCC unroll 4
      for (int64_t j = 0; j < size; ++j) {
        larger_one -= key[j] > one;
        larger_two -= key[j] > two;
      }
      store(place + i, larger_one);
      store(place + i + lanes, larger_two);
      sums += larger_one + larger_two;
    }
    if (i < end) {
      const Keys one = load<Keys>(key + i);
      Keys larger{};
#pragma GCC unroll 4
      for (int64_t j = 0; j < size; ++j) larger -= key[j] > one;
      store(place + i, larger);
      sums += larger;
    }
    int64_t sum = (size - end) * size;  // each `least` is below all others
    for (int64_t lane = 0; lane < lanes; ++lane) sum += sums[lane];
    return 2 * sum == size * (size - 1);
  }

  // The same, where equal keys keep their order.
  static void rank_equal(const Key* key, int64_t size, Key* place) {
    for (int64_t i = 0; i < size; i += lanes) {
      const Keys mine = load<Keys>(key + i), lane = first_lanes();
      Keys before{};
      for (int64_t j = 0; j < size; ++j) {
        const Keys other = Keys{} + key[j];
        before -= (other > mine) | ((other == mine) & (lane > static_cast<Key>(j - i)));
      }
      store(place + i, before);
    }
  }
};

// Entries of a list: scores and where they came from, both of `capacity`, a multiple of a block.
template <typename Score>
struct Entries {
  using Key = typename Ordered<Score>::Key;
  Score* value;
  Key* place;
  int64_t size;
};

template <typename Score>
struct ShortLists {
  using L = Lanes<Score>;
  using Key = typename L::Key;
  using Keys = typename L::Keys;
  using Scores = typename L::Scores;

  Key* key;               // [capacity]
  Key* rank;              // [capacity]
  Key* maxima;            // [groups_for(K)]
  Entries<Score> passed;  // of the list being read
  int64_t capacity;

  static int64_t groups_for(int64_t keep) { return L::padded(2 * keep); }

  // The best of a block of keys that at least `keep` of key[0 .. size) reach; `least` if none is.
  static Key reached_by(const Key* key, int64_t size, int64_t keep, Keys one, Keys two) {
    Keys below_one{}, below_two{};
#pragma GCC unroll 4
    for (int64_t i = 0; i < size; ++i) {
      below_one -= one > key[i];
      below_two -= two > key[i];
    }
    const Key most_below = static_cast<Key>(size - keep);
    const Keys none = Keys{} + L::least;
    const Keys best_one = below_one <= most_below ? one : none, best_two = below_two <= most_below ? two : none;
    Key best = L::least;
    for (int64_t lane = 0; lane < L::lanes; ++lane) {
      best = best_one[lane] > best ? best_one[lane] : best;
      best = best_two[lane] > best ? best_two[lane] : best;
    }
    return best;
  }

  // Ranking costs the square of the size: a long list first loses what a sample of its keys shows to be beyond `keep`.
  void shorten(Entries<Score>& list, int64_t keep) {
    if (list.size <= keep + keep / 2 + 64) return;
    Keys one, two;
    for (int64_t lane = 0; lane < L::lanes; ++lane) {
      one[lane] = key[lane * list.size / L::block];
      two[lane] = key[(lane + L::lanes) * list.size / L::block];
    }
    const Key threshold = reached_by(key, list.size, keep, one, two);
    int64_t size = 0;
    for (int64_t i = 0; i < list.size; ++i) {
      list.value[size] = list.value[i];
      list.place[size] = list.place[i];
      const Key mine = key[i];
      key[size] = mine;
      size += mine >= threshold;
    }
    list.size = size;
  }

  // The `keep` or more best of `from`, best first, equal ones in their order, into `to`; `from` may lose the others.
  // Returns whether all that were ordered differ.
  bool order(Entries<Score>& from, int64_t keep, Entries<Score>& to) {
    for (int64_t i = 0; i < from.size; i += L::lanes) store(key + i, L::ordered(load<Scores>(from.value + i)));
    shorten(from, keep);
    for (int64_t i = from.size; i < L::padded(from.size); ++i) key[i] = L::least;
    const bool different = L::rank_different(key, from.size, rank);
    if (!different) L::rank_equal(key, from.size, rank);
    for (int64_t i = 0; i < from.size; ++i) {
      to.value[rank[i]] = from.value[i];
      to.place[rank[i]] = from.place[i];
    }
    to.size = from.size;
    return different;
  }

  // A key that at least `keep` of the scores reach: of the first block of group maxima, the best that `keep` groups
  // reach. `least` when the groups would be too small to gain anything.
  Key reached(const Score* score, int64_t count, int64_t keep) {
    const int64_t groups = groups_for(keep);
    if (count < 2 * groups) return L::least;
    for (int64_t g = 0; g < groups; g += L::lanes) {
      Scores largest = load<Scores>(score + g);
#pragma GCC unroll 4
      for (int64_t i = g + groups; i + L::lanes <= count; i += groups) {
        const Scores other = load<Scores>(score + i);
        largest = other > largest ? other : largest;
      }
      store(maxima + g, L::ordered(largest));
    }
    return reached_by(maxima, groups, keep, load<Keys>(maxima), load<Keys>(maxima + L::lanes));
  }

  // Behind `passed`: those of 64 scores that `bits` names and that are not below the threshold.
  void pass(const Score* from, Key start, uint64_t bits, Score threshold) {
#if defined(__AVX512F__)
    for (int64_t i = 0; i < 64; i += L::lanes) {
      const Scores scores = load<Scores>(from + i);
      const uint64_t here = bits >> i & ~lane_bits(static_cast<Keys>(scores < threshold)) & ((1ULL << L::lanes) - 1);
      const Keys places = L::first_lanes() + static_cast<Key>(start + i);
      store(passed.value + passed.size, compressed(scores, here));
      store(passed.place + passed.size, compressed(places, here));
      passed.size += __builtin_popcountll(here);
    }
#else
    uint64_t below = 0;
    for (int64_t i = 0; i < 64; i += L::lanes) {
      below |= lane_bits(static_cast<Keys>(load<Scores>(from + i) < threshold)) << i;
    }
    for (bits &= ~below; bits != 0; bits &= bits - 1) {
      const int64_t i = __builtin_ctzll(bits);
      passed.value[passed.size] = from[i];
      passed.place[passed.size] = static_cast<Key>(start + i);
      ++passed.size;
    }
#endif
  }

  // The best `keep` of score[0 .. count), by (score descending, position ascending). keep <= count.
  void select(const Score* score, int64_t count, int64_t keep, Entries<Score>& best) {
    constexpr int64_t width = 64;  // scores whose comparison fills one word
    Score threshold = L::score_of(reached(score, count, keep));
    passed.size = 0;
    for (int64_t start = 0; start < count; start += width) {
      Score tail[width];
      const Score* from = score + start;
      uint64_t bits = ~uint64_t{0};
      if (count - start < width) {
        for (int64_t i = 0; i < width; ++i) tail[i] = i < count - start ? from[i] : Score(0);
        from = tail;
        bits = (uint64_t{1} << (count - start)) - 1;
      }
      pass(from, static_cast<Key>(start), bits, threshold);
      if (passed.size > capacity - width) {  // from now on only larger ones, for equal ones come too late
        order(passed, keep, best);
        const Entries<Score> swapped = best;
        best = passed;
        passed = swapped;
        passed.size = keep;
        const Key last = L::key_of(passed.value[keep - 1]);
        if (last == L::most) break;
        threshold = L::score_of(last + 1);
      }
    }
    order(passed, keep, best);
    best.size = keep;
  }
};

}  // namespace
}  // namespace loci::LOCI_LEVEL
