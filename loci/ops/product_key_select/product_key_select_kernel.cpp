#include "loci/ops/product_key_select/product_key_select_kernel.h"

// Legend: n sub-keys of a half, K top_k, C candidates (pairs of ranks a, b with a * b <= K, and the partial row).
//
// Scores become signed integers of the same order ("ranks" below compare as integers, NaN on top, -0 = +0). A short
// sorted list takes every new entry without a branch; a stale threshold keeps most entries away from it.

namespace loci::LOCI_LEVEL {
namespace {

template <typename Score>
struct Ordered;

template <>
struct Ordered<float> {
  using Key = int32_t;
  typedef int32_t Vector __attribute__((vector_size(32)));
  static constexpr Key most = INT32_MAX, least = INT32_MIN;
  static constexpr int sign_shift = 31;
};

template <>
struct Ordered<double> {
  using Key = int64_t;
  typedef int64_t Vector __attribute__((vector_size(32)));
  static constexpr Key most = INT64_MAX, least = INT64_MIN;
  static constexpr int sign_shift = 63;
};

template <typename Score>
typename Ordered<Score>::Key ordered(Score score) {
  using Key = typename Ordered<Score>::Key;
  const Score positive_zero = score + Score(0);
  Key bits;
  __builtin_memcpy(&bits, &positive_zero, sizeof bits);
  bits ^= (bits >> Ordered<Score>::sign_shift) & Ordered<Score>::most;
  return score != score ? Ordered<Score>::most : bits;
}

int64_t least_of(int64_t a, int64_t b) {
  return a < b ? a : b;
}

int64_t padded(int64_t size) {
  return (size + 15) / 16 * 16;
}

// The best entries so far, descending; equal keys in the order of their arrival. One slot in front of the list holds
// the largest key, so that a vector may look one entry back.
template <typename Score>
struct BestList {
  using Key = typename Ordered<Score>::Key;
  using Vector = typename Ordered<Score>::Vector;
  static constexpr int64_t lanes = sizeof(Vector) / sizeof(Key);

  Key* key;
  Key* place;
  int64_t size;  // a multiple of 16

  void clear() {
    for (int64_t i = 0; i < size; ++i) key[i] = Ordered<Score>::least;
    for (int64_t i = 0; i < size; ++i) place[i] = 0;
    key[-1] = Ordered<Score>::most;
    place[-1] = 0;
  }

  // From the end to the front, so that the entry before each vector is still the old one.
  void insert(Key new_key, Key new_place) {
    const Vector wanted = Vector{} + new_key, wanted_place = Vector{} + new_place;
    for (int64_t i = size - lanes; i >= 0; i -= lanes) {
      Vector here, before, here_place, before_place;
      __builtin_memcpy(&here, key + i, sizeof here);
      __builtin_memcpy(&before, key + i - 1, sizeof before);
      __builtin_memcpy(&here_place, place + i, sizeof here_place);
      __builtin_memcpy(&before_place, place + i - 1, sizeof before_place);
      const Vector moves = before < wanted, stays = here >= wanted;
      const Vector arrived = moves ? before : wanted, arrived_place = moves ? before_place : wanted_place;
      here = stays ? here : arrived;
      here_place = stays ? here_place : arrived_place;
      __builtin_memcpy(key + i, &here, sizeof here);
      __builtin_memcpy(place + i, &here_place, sizeof here_place);
    }
  }

  // The best `keep` of keys[0 .. count), by (key descending, position ascending).
  void select(const Key* keys, int64_t count, int64_t keep) {
    constexpr int64_t block = 32;
    clear();
    for (int64_t start = 0; start < count; start += block) {
      const int64_t end = least_of(start + block, count);
      const Key threshold = key[keep - 1];
      // least itself is no score's key, so the first `keep` entries always pass.
      Key passed[block];
      int64_t passes = 0;
      for (int64_t i = start; i < end; ++i) {
        passed[passes] = static_cast<Key>(i);
        passes += keys[i] > threshold;
      }
      for (int64_t p = 0; p < passes; ++p) insert(keys[passed[p]], passed[p]);
    }
  }
};

// Everything a call needs beside its arguments.
template <typename Score>
struct Scratch {
  using Key = typename Ordered<Score>::Key;
  struct Half {
    Score* value;  // [K] best scores, in order
    Key* place;    // [K] their positions
    int64_t size;
  };

  Key* keys;             // [max(n1, n2)]
  BestList<Score> list;  // K
  Half first, second, partial;
  Key* candidate;         // [C] keys of the sums
  int32_t *row, *column;  // [C] positions in the halves' lists
  Score* low;             // [K] for the exact order
  int64_t* address;       // [K]
  Key* high;              // [K]
  Score* sum;             // [K]

  static int64_t most_candidates(int64_t top_k) {
    int64_t count = top_k;  // of the partial row
    for (int64_t a = 1; a <= top_k; ++a) count += top_k / a;
    return count;
  }

  // Lays the arrays out behind `memory`; returns the bytes they take.
  int64_t place(uintptr_t memory, const ProductKeySelectShape& shape) {
    int64_t used = 0;
    const auto take = [&](int64_t count, int64_t bytes) {
      const uintptr_t start = memory + used;
      used += (count * bytes + 63) / 64 * 64;
      return start;
    };
    const int64_t K = shape.top_k, C = most_candidates(K);
    keys = reinterpret_cast<Key*>(take(shape.n1 > shape.n2 ? shape.n1 : shape.n2, sizeof(Key)));
    list.size = padded(K);
    list.key = reinterpret_cast<Key*>(take(list.size + 16, sizeof(Key))) + 16;
    list.place = reinterpret_cast<Key*>(take(list.size + 16, sizeof(Key))) + 16;
    Half* const halves[] = {&first, &second, &partial};
    for (Half* half : halves) {
      half->value = reinterpret_cast<Score*>(take(K, sizeof(Score)));
      half->place = reinterpret_cast<Key*>(take(K, sizeof(Key)));
      half->size = 0;
    }
    candidate = reinterpret_cast<Key*>(take(C, sizeof(Key)));
    row = reinterpret_cast<int32_t*>(take(C, sizeof(int32_t)));
    column = reinterpret_cast<int32_t*>(take(C, sizeof(int32_t)));
    low = reinterpret_cast<Score*>(take(K, sizeof(Score)));
    address = reinterpret_cast<int64_t*>(take(K, sizeof(int64_t)));
    high = reinterpret_cast<Key*>(take(K, sizeof(Key)));
    sum = reinterpret_cast<Score*>(take(K, sizeof(Score)));
    return used;
  }

  void best_of(Half& half, const Score* score, int64_t count, int64_t top_k) {
    half.size = least_of(top_k, count);
    if (half.size == 0) return;
    for (int64_t i = 0; i < count; ++i) keys[i] = ordered(score[i]);
    list.select(keys, count, half.size);
    for (int64_t i = 0; i < half.size; ++i) {
      half.place[i] = list.place[i];
      half.value[i] = score[list.place[i]];
    }
  }
};

// One search. The candidates of the partial row have row = -1.
template <typename Score>
struct Search {
  using Key = typename Ordered<Score>::Key;
  const ProductKeySelectShape& shape;
  Scratch<Score> scratch;
  Score partial_score = 0;
  int64_t full = 0;  // rows of the address grid that exist entirely

  Score first_of(int64_t c) const { return scratch.row[c] < 0 ? partial_score : scratch.first.value[scratch.row[c]]; }
  Score second_of(int64_t c) const {
    return (scratch.row[c] < 0 ? scratch.partial : scratch.second).value[scratch.column[c]];
  }
  int64_t address_of(int64_t c) const {
    if (scratch.row[c] < 0) return full * shape.n2 + scratch.partial.place[scratch.column[c]];
    return scratch.first.place[scratch.row[c]] * shape.n2 + scratch.second.place[scratch.column[c]];
  }

  void find_halves(const Score* score1, const Score* score2) {
    full = shape.addresses / shape.n2;
    const int64_t rest = shape.addresses - full * shape.n2;
    scratch.best_of(scratch.first, score1, full, shape.top_k);
    if (full > 0) scratch.best_of(scratch.second, score2, shape.n2, shape.top_k);
    scratch.best_of(scratch.partial, score2, rest, shape.top_k);
    if (rest > 0) partial_score = score1[full];
  }

  // The sums of the pairs that can win; returns their number.
  int64_t make_candidates() {
    int64_t count = 0;
    for (int64_t a = 0; a < scratch.first.size; ++a) {
      const int64_t columns = least_of(scratch.second.size, shape.top_k / (a + 1));
      const Score value = scratch.first.value[a];
      for (int64_t b = 0; b < columns; ++b) {
        scratch.candidate[count + b] = ordered(value + scratch.second.value[b]);
        scratch.row[count + b] = static_cast<int32_t>(a);
        scratch.column[count + b] = static_cast<int32_t>(b);
      }
      count += columns;
    }
    for (int64_t b = 0; b < scratch.partial.size; ++b, ++count) {
      scratch.candidate[count] = ordered(partial_score + scratch.partial.value[b]);
      scratch.row[count] = -1;
      scratch.column[count] = static_cast<int32_t>(b);
    }
    return count;
  }

  // Rounded sums decide alone when no two of the best are equal and none equal to the last was left out.
  bool rounded_sums_decide(int64_t count) const {
    const Key last = scratch.list.key[shape.top_k - 1];
    int64_t reaching = 0;
    for (int64_t c = 0; c < count; ++c) reaching += scratch.candidate[c] >= last;
    bool equal = reaching > shape.top_k;
    for (int64_t r = 1; r < shape.top_k; ++r) equal |= scratch.list.key[r] == scratch.list.key[r - 1];
    return !equal;
  }

  // Insertion by (rounded sum, its rounding error, address), for the candidates that reach the last place.
  void order_exactly(int64_t count) {
    const Key last = scratch.list.key[shape.top_k - 1];
    int64_t size = 0;
    for (int64_t c = 0; c < count; ++c) {
      const Key key = scratch.candidate[c];
      if (key < last) continue;
      const Score a = first_of(c), b = second_of(c);
      const Score high = a + b, t = high - a;
      const Score low = __builtin_isfinite(high) ? (a - (high - t)) + (b - t) : Score(0);
      const int64_t address = address_of(c);
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
  search.scratch.place(reinterpret_cast<uintptr_t>(memory), shape);
  search.find_halves(score1, score2);
  const int64_t count = search.make_candidates();
  search.scratch.list.select(search.scratch.candidate, count, shape.top_k);
  if (search.rounded_sums_decide(count)) {
    for (int64_t r = 0; r < shape.top_k; ++r) {
      const int64_t c = search.scratch.list.place[r];
      score[r] = search.first_of(c) + search.second_of(c);
      index[r] = search.address_of(c);
    }
    return;
  }
  search.order_exactly(count);
  for (int64_t r = 0; r < shape.top_k; ++r) {
    score[r] = search.scratch.sum[r];
    index[r] = search.scratch.address[r];
  }
}

int64_t scratch_bytes(const ProductKeySelectShape& shape) {
  Scratch<double> scratch;  // the larger of the two
  return scratch.place(0, shape);
}

}  // namespace

const ProductKeySelectKernel product_key_select_kernel = {scratch_bytes, select<float>, select<double>};

}  // namespace loci::LOCI_LEVEL
