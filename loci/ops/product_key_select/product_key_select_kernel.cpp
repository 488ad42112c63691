#include "loci/ops/product_key_select/product_key_select_kernel.h"

#include "loci/ops/four_by_four_kernel.h"
#include "loci/ops/product_key_select/select_lanes_kernel.h"
#include "loci/ops/product_key_select/short_lists_kernel.h"

// Legend: n sub-keys of a half, K top_k, C candidates (pairs of ranks a, b with a * b <= K, and the partial row).
//
// Estimate per search, in vector instructions of L lanes, for halves of n and the m entries that reach:
//   2 (3 n / L + m (6 + 2 m / L)) + c (6 + 2 c / L) with c of C; n = 512, K = 32: m = 48, c = 59, about
//   3,300 with L = 8 and 2,100 with 16. Where networks take the shape (select_lanes_kernel.h), it is for the rest.

namespace loci::LOCI_LEVEL {
namespace {

constexpr int kColumnBits = 10;
static_assert(kProductKeySelectMost <= 1 << kColumnBits);

// Everything that a call needs in addition to its arguments.
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

  // Lists are ordered, so their first and last entries tell.
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

int64_t select_bytes(const ProductKeySelectShape& shape) {
  Scratch<double> scratch;  // the larger of the two
  return scratch.lay_out(0, shape);
}

constexpr int64_t kTransposed = 4;  // tokens whose scores are copied together into rows of their own

// Behind a search's own scratch: rows of scores, or what the networks take.
int64_t scratch_bytes(const ProductKeySelectShape& shape) {
  const int64_t rows = kTransposed * (shape.n1 + shape.n2);
  return select_bytes(shape) + most_of(rows, lanes_take(shape) ? lanes_room(shape) : 0) * int64_t{sizeof(float)};
}

// Transposes score[i * stride + t] of four tokens into rows of n.
void transpose_scores(const float* score, int64_t stride, int64_t n, float* row) {
  int64_t i = 0;
  for (; i + 4 <= n; i += 4) {
    const float* const from = score + i * stride;
    transpose_four({from, from + stride, from + 2 * stride, from + 3 * stride}, row + i, n);
  }
  for (; i < n; ++i) {
    for (int64_t t = 0; t < kTransposed; ++t) row[t * n + i] = score[i * stride + t];
  }
}

int64_t select_lanes(const ProductKeySelectShape& shape, const float* score1, const float* score2, int64_t stride,
                     int64_t tokens, float* score, int64_t* index, int64_t out, void* memory) {
  float* const room = reinterpret_cast<float*>(static_cast<char*>(memory) + select_bytes(shape));
  uint64_t done = 0;
  if (lanes_take(shape)) {
    LaneEntry best[kMostInLane];
    done = shape.top_k <= 8    ? search_lanes<8>(shape, score1, score2, stride, best, room)
           : shape.top_k <= 16 ? search_lanes<16>(shape, score1, score2, stride, best, room)
                               : search_lanes<32>(shape, score1, score2, stride, best, room);
    for (int64_t t = 0; t < tokens; ++t) {
      for (int64_t r = 0; r < shape.top_k; ++r) {
        score[t * out + r] = best[r].value[t];
        index[t * out + r] = best[r].place[t];
      }
    }
  }
  const uint64_t asked = (uint64_t{1} << tokens) - 1;
  done &= asked;
  float *const row1 = room, *const row2 = room + kTransposed * shape.n1;
  for (int64_t first = 0; first < tokens; first += kTransposed) {
    const int64_t end = least_of(first + kTransposed, tokens);
    const uint64_t left = (asked & ~done) >> first & ((uint64_t{1} << kTransposed) - 1);
    if (left == 0) continue;
    transpose_scores(score1 + first, stride, shape.n1, row1);
    transpose_scores(score2 + first, stride, shape.n2, row2);
    for (int64_t t = first; t < end; ++t) {
      if ((left >> (t - first) & 1) == 0) continue;
      select<float>(shape, row1 + (t - first) * shape.n1, row2 + (t - first) * shape.n2, score + t * out,
                    index + t * out, memory);
    }
  }
  return __builtin_popcountll(done);
}

}  // namespace

const ProductKeySelectKernel product_key_select_kernel = {kLanes, scratch_bytes, select<float>, select<double>,
                                                          select_lanes};

}  // namespace loci::LOCI_LEVEL
