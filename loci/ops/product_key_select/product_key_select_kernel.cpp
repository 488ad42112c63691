#include "loci/ops/product_key_select/product_key_select_kernel.h"

#if defined(__SSE2__)
#include <immintrin.h>
#endif

// Legend: n sub-keys of a half, K top_k, C candidates (pairs of ranks a, b with a * b <= K, and the partial row).
//
// A list is read twice: maxima of 2 K groups give a score that at least K entries reach, and the few entries that reach
// it are kept (about 1.5 K of random scores). Short lists are ordered by counting: an entry's place is the number of
// those before it, which takes no branch. Scores compare as integers of the same order (NaN on top, -0 = +0).
//
// Estimate per search, in vector instructions of L lanes, for halves of n and the m entries that reach:
//   2 (3 n / L + m (6 + 2 m / L)) + c (6 + 2 c / L) with c of C; n = 512, K = 32, L = 8: m = 48, c = 59, about 4,000.

namespace loci::LOCI_LEVEL {
namespace {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

constexpr int kColumnBits = 10;
static_assert(kProductKeySelectMost <= 1 << kColumnBits);

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

// Everything a call needs beside its arguments.
template <typename Score>
struct Scratch {
  using L = Lanes<Score>;
  using Key = typename L::Key;

  ShortLists<Score> lists;
  Entries<Score> first, second, partial;  // the best of the halves; of the row of addresses that is not complete
  Entries<Score> sums, ordered_sums;      // candidates; their place is row * 2^kColumnBits + column
  Score* low;                             // [K] for the exact order
  int64_t* address;                       // [K]
  Key* high;                              // [K]
  Score* sum;                             // [K]

  // c(K) = K / 1 + K / 2 + ... is below K (1 + log2 K); K more for the partial row.
  static int64_t most_candidates(int64_t top_k) { return top_k * (66 - __builtin_clzll(static_cast<uint64_t>(top_k))); }

  // Lays the arrays out behind `memory`; returns the bytes they take.
  int64_t lay_out(uintptr_t memory, const ProductKeySelectShape& shape) {
    int64_t used = 0;
    const auto take = [&](int64_t count, int64_t bytes) {
      const uintptr_t start = memory + used;
      used += (count * bytes + 63) / 64 * 64;
      return start;
    };
    const int64_t K = shape.top_k, capacity = L::padded(K + most_of(K, 64) + 64);
    const int64_t most = L::padded(most_of(capacity, most_candidates(K) + L::lanes));
    const auto entries = [&](int64_t count) {
      Entries<Score> list;
      list.value = reinterpret_cast<Score*>(take(count, sizeof(Score)));
      list.place = reinterpret_cast<Key*>(take(count, sizeof(Key)));
      list.size = 0;
      return list;
    };
    lists.capacity = capacity;
    lists.key = reinterpret_cast<Key*>(take(most, sizeof(Key)));
    lists.rank = reinterpret_cast<Key*>(take(most, sizeof(Key)));
    lists.maxima = reinterpret_cast<Key*>(take(lists.groups_for(K), sizeof(Key)));
    lists.passed = entries(capacity);
    first = entries(capacity);
    second = entries(capacity);
    partial = entries(capacity);
    sums = entries(most);
    ordered_sums = entries(most);
    low = reinterpret_cast<Score*>(take(K, sizeof(Score)));
    address = reinterpret_cast<int64_t*>(take(K, sizeof(int64_t)));
    high = reinterpret_cast<Key*>(take(K, sizeof(Key)));
    sum = reinterpret_cast<Score*>(take(K, sizeof(Score)));
    return used;
  }
};

// One search. The partial row comes after the rows of `first`.
template <typename Score>
struct Search {
  using L = Lanes<Score>;
  using Key = typename L::Key;
  using Keys = typename L::Keys;
  using Scores = typename L::Scores;

  const ProductKeySelectShape& shape;
  Scratch<Score> scratch;
  Score partial_score = 0;
  int64_t full = 0;  // rows of the address grid that exist entirely

  struct Pair {
    int64_t row, column;
  };
  static Pair pair_of(Key code) { return {code >> kColumnBits, code & ((1 << kColumnBits) - 1)}; }
  bool is_partial(Pair pair) const { return pair.row == scratch.first.size; }
  Score first_of(Pair pair) const { return is_partial(pair) ? partial_score : scratch.first.value[pair.row]; }
  Score second_of(Pair pair) const { return (is_partial(pair) ? scratch.partial : scratch.second).value[pair.column]; }
  int64_t address_of(Pair pair) const {
    if (is_partial(pair)) return full * shape.n2 + scratch.partial.place[pair.column];
    return scratch.first.place[pair.row] * shape.n2 + scratch.second.place[pair.column];
  }

  void find_halves(const Score* score1, const Score* score2) {
    full = shape.addresses / shape.n2;
    const int64_t rest = shape.addresses - full * shape.n2;
    const auto best_of = [&](Entries<Score>& half, const Score* score, int64_t count) {
      half.size = 0;
      if (count > 0) scratch.lists.select(score, count, least_of(shape.top_k, count), half);
    };
    best_of(scratch.first, score1, full);
    best_of(scratch.second, score2, full > 0 ? shape.n2 : 0);
    best_of(scratch.partial, score2, rest);
    if (rest > 0) partial_score = score1[full];
  }

  // Lists are ordered, so their ends tell.
  bool finite() const {
    bool good = __builtin_isfinite(partial_score);
    const Entries<Score>* const lists[] = {&scratch.first, &scratch.second, &scratch.partial};
    for (const Entries<Score>* list : lists) {
      if (list->size > 0) good &= __builtin_isfinite(list->value[0]) && __builtin_isfinite(list->value[list->size - 1]);
    }
    return good;
  }

  // A sum that K pairs reach: the best corner of the rectangles of K or more ranks. NaN when there is none.
  Score reached() const {
    Score best = L::score_of(L::least);
    const auto corner = [&](int64_t a, int64_t b) {
      if (a > scratch.first.size || b > scratch.second.size) return;
      const Score sum = scratch.first.value[a - 1] + scratch.second.value[b - 1];
      if (!(sum < best)) best = sum;
    };
    // The shorter side of a smallest rectangle is at most the root of K, rounded up.
    for (int64_t a = 1; (a - 1) * (a - 1) < shape.top_k; ++a) {
      const int64_t b = (shape.top_k + a - 1) / a;
      corner(a, b);
      corner(b, a);
    }
    return best;
  }

  // Sums of one row with the first `count` of `others`; they fall, so those that reach the threshold stand in front.
  // Returns how many.
  int64_t add_row(Score value, const Entries<Score>& others, int64_t count, int64_t row, Score threshold) {
    Entries<Score>& sums = scratch.sums;
    const int64_t before = sums.size;
    for (int64_t b = 0; b < count; b += L::lanes) {
      const Scores sum = load<Scores>(others.value + b) + value;
      const uint64_t ends = lane_bits(static_cast<Keys>(sum < threshold)) | uint64_t{1}
                                                                                << least_of(count - b, L::lanes);
      const int64_t passes = __builtin_ctzll(ends);
      store(sums.value + sums.size, sum);
      store(sums.place + sums.size, L::first_lanes() + static_cast<Key>((row << kColumnBits) + b));
      sums.size += passes;
      if (passes < L::lanes) break;
    }
    return sums.size - before;
  }

  void make_candidates(Score threshold) {
    scratch.sums.size = 0;
    for (int64_t a = 0; a < scratch.first.size; ++a) {
      const int64_t count = least_of(scratch.second.size, shape.top_k / (a + 1));
      if (add_row(scratch.first.value[a], scratch.second, count, a, threshold) == 0) break;
    }
    add_row(partial_score, scratch.partial, scratch.partial.size, scratch.first.size, threshold);
  }

  // Insertion by (rounded sum, its rounding error, address), for the candidates that reach the last place.
  void order_exactly() {
    const Key last = L::key_of(scratch.ordered_sums.value[shape.top_k - 1]);
    int64_t size = 0;
    for (int64_t c = 0; c < scratch.sums.size; ++c) {
      const Key key = L::key_of(scratch.sums.value[c]);
      if (key < last) continue;
      const Pair pair = pair_of(scratch.sums.place[c]);
      const Score a = first_of(pair), b = second_of(pair);
      const Score high = a + b, t = high - a;
      const Score low = __builtin_isfinite(high) ? (a - (high - t)) + (b - t) : Score(0);
      const int64_t address = address_of(pair);
      const auto before = [&](int64_t r) {  // the new one precedes place r
        if (key != scratch.high[r]) return key > scratch.high[r];
        if (low != scratch.low[r]) return low > scratch.low[r];
        return address < scratch.address[r];
      };
      if (size == shape.top_k && !before(size - 1)) continue;
      if (size < shape.top_k) ++size;
      int64_t r = size - 1;
      for (; r > 0 && before(r - 1); --r) {
        scratch.high[r] = scratch.high[r - 1];
        scratch.low[r] = scratch.low[r - 1];
        scratch.address[r] = scratch.address[r - 1];
        scratch.sum[r] = scratch.sum[r - 1];
      }
      scratch.high[r] = key;
      scratch.low[r] = low;
      scratch.address[r] = address;
      scratch.sum[r] = high;
    }
  }
};

template <typename Score>
void select(const ProductKeySelectShape& shape, const Score* score1, const Score* score2, Score* score, int64_t* index,
            void* memory) {
  Search<Score> search{shape, {}};
  search.scratch.lay_out(reinterpret_cast<uintptr_t>(memory), shape);
  search.find_halves(score1, score2);
  const bool finite = search.finite();
  search.make_candidates(finite ? search.reached() : Lanes<Score>::score_of(Lanes<Score>::least));
  const bool different = search.scratch.lists.order(search.scratch.sums, shape.top_k, search.scratch.ordered_sums);
  if (finite && different) {  // rounded sums decide alone
    for (int64_t r = 0; r < shape.top_k; ++r) {
      score[r] = search.scratch.ordered_sums.value[r];
      index[r] = search.address_of(search.pair_of(search.scratch.ordered_sums.place[r]));
    }
    return;
  }
  search.order_exactly();
  for (int64_t r = 0; r < shape.top_k; ++r) {
    score[r] = search.scratch.sum[r];
    index[r] = search.scratch.address[r];
  }
}

int64_t scratch_bytes(const ProductKeySelectShape& shape) {
  Scratch<double> scratch;  // the larger of the two
  return scratch.lay_out(0, shape);
}

}  // namespace

const ProductKeySelectKernel product_key_select_kernel = {scratch_bytes, select<float>, select<double>};

}  // namespace loci::LOCI_LEVEL
