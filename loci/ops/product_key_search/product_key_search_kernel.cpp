#include "loci/ops/product_key_search/product_key_search_kernel.h"

#include "loci/ops/four_by_four_kernel.h"
#include "loci/ops/vector_kernel.h"

namespace loci::LOCI_LEVEL {
namespace {

// Keys times three vectors of tokens fill the registers with sums: 4 x 3 of 16, 8 x 3 of 32.
constexpr int kKeys = kVectorBytes == 64 ? 8 : 4;

template <typename Real>
struct VectorOf;
template <>
struct VectorOf<float> {
  typedef float type __attribute__((vector_size(kVectorBytes)));
};
template <>
struct VectorOf<double> {
  typedef double type __attribute__((vector_size(kVectorBytes)));
};
template <typename Real>
using Vector = typename VectorOf<Real>::type;
template <typename Real>
constexpr int64_t kLanes = kVectorBytes / static_cast<int64_t>(sizeof(Real));

constexpr int64_t kTokens = ProductKeySearchKernel::tokens;

template <typename Real>
Vector<Real> load(const Real* from) {
  Vector<Real> vector;
  __builtin_memcpy(&vector, from, sizeof vector);
  return vector;
}

template <typename Real>
void store(Real* to, const Vector<Real>& vector) {
  __builtin_memcpy(to, &vector, sizeof vector);
}

// The first `count` numbers, fewer than a vector holds, and zeros after them; nothing behind them is read or written.
#if defined(__AVX512F__)
Vector<float> load_first(const float* from, int64_t count) {
  return _mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << count) - 1), from);
}
Vector<double> load_first(const double* from, int64_t count) {
  return _mm512_maskz_loadu_pd(static_cast<__mmask8>((1u << count) - 1), from);
}
void store_first(float* to, Vector<float> vector, int64_t count) {
  _mm512_mask_storeu_ps(to, static_cast<__mmask16>((1u << count) - 1), vector);
}
void store_first(double* to, Vector<double> vector, int64_t count) {
  _mm512_mask_storeu_pd(to, static_cast<__mmask8>((1u << count) - 1), vector);
}
#elif defined(__AVX2__)
__m256i first_floats(int64_t count) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(count)), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
__m256i first_doubles(int64_t count) {
  return _mm256_cmpgt_epi64(_mm256_set1_epi64x(count), _mm256_setr_epi64x(0, 1, 2, 3));
}
Vector<float> load_first(const float* from, int64_t count) {
  return _mm256_maskload_ps(from, first_floats(count));
}
Vector<double> load_first(const double* from, int64_t count) {
  return _mm256_maskload_pd(from, first_doubles(count));
}
void store_first(float* to, Vector<float> vector, int64_t count) {
  _mm256_maskstore_ps(to, first_floats(count), vector);
}
void store_first(double* to, Vector<double> vector, int64_t count) {
  _mm256_maskstore_pd(to, first_doubles(count), vector);
}
#else
template <typename Real>
Vector<Real> load_first(const Real* from, int64_t count) {
  Vector<Real> vector = {};
  for (int64_t i = 0; i < count; ++i) vector[i] = from[i];
  return vector;
}
template <typename Real>
void store_first(Real* to, const Vector<Real>& vector, int64_t count) {
  for (int64_t i = 0; i < count; ++i) to[i] = vector[i];
}
#endif

template <typename Real>
Vector<Real> splat(Real value) {
  return value - Vector<Real>{};  // not a sum, which would turn -0 into +0
}

// a * b + c, rounded once where the level can.
Vector<float> multiply_add(Vector<float> a, Vector<float> b, Vector<float> c) {
#if defined(__AVX512F__)
  return _mm512_fmadd_ps(a, b, c);
#elif defined(__AVX2__)
  return _mm256_fmadd_ps(a, b, c);
#else
  return a * b + c;
#endif
}

// Row `at` of [.., w] as floats: where it lies, or widened into `room`.
const float* floats(const void* rows, QueryElement element, int64_t at, int64_t w, float* room) {
  if (element == QueryElement::float32) return static_cast<const float*>(rows) + at;
  const uint16_t* from = static_cast<const uint16_t*>(rows) + at;
  for (int64_t c = 0; c < w; ++c) {
    const uint32_t bits = static_cast<uint32_t>(from[c]) << 16;
    __builtin_memcpy(room + c, &bits, sizeof bits);
  }
  return room;
}

// Transposes four tokens' queries into their columns of a block [w, kTokens].
void transpose_queries(const float* const (&query)[4], int64_t w, float* to) {
  int64_t c = 0;
  for (; c + 4 <= w; c += 4) {
    const float* const from[4] = {query[0] + c, query[1] + c, query[2] + c, query[3] + c};
    transpose_four(from, to + c * kTokens, kTokens);
  }
  for (; c < w; ++c) {
    for (int t = 0; t < 4; ++t) to[c * kTokens + t] = query[t][c];
  }
}

// Scores of kKeys keys, one row each, and three vectors of tokens.
void tile_scores(const float* block, const float* const (&key)[kKeys], int64_t w, float* const (&score)[kKeys]) {
  constexpr int64_t L = kLanes<float>;
  Vector<float> sum[kKeys][3] = {};
  for (int64_t c = 0; c < w; ++c) {
    const float* from = block + c * kTokens;
    const Vector<float> one = load(from), two = load(from + L), three = load(from + 2 * L);
#pragma GCC unroll 8
    for (int i = 0; i < kKeys; ++i) {
      const Vector<float> k = splat(key[i][c]);
      sum[i][0] = multiply_add(k, one, sum[i][0]);
      sum[i][1] = multiply_add(k, two, sum[i][1]);
      sum[i][2] = multiply_add(k, three, sum[i][2]);
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < kKeys; ++i) {
    store(score[i], sum[i][0]);
    store(score[i] + L, sum[i][1]);
    store(score[i] + 2 * L, sum[i][2]);
  }
}

void scores(const void* query, QueryElement element, int64_t stride, int64_t t, const float* keys, int64_t n, int64_t w,
            float* score, float* block) {
  float* const room = block + kTokens * w;
  for (int64_t first = 0; first < kTokens; first += 4) {
    const float* row[4];
    for (int64_t i = 0; i < 4; ++i) {
      const int64_t token = first + i < t ? first + i : t - 1;
      row[i] = floats(query, element, token * stride, w, room + i * w);
    }
    transpose_queries(row, w, block + first);
  }
  for (int64_t k = 0; k < n; k += kKeys) {
    const float* key[kKeys];
    float* to[kKeys];
    for (int i = 0; i < kKeys; ++i) {  // the last key stands in for those behind it
      const int64_t at = k + i < n ? k + i : n - 1;
      key[i] = keys + at * w;
      to[i] = score + at * kTokens;
    }
    for (int64_t column = 0; column < t; column += 3 * kLanes<float>) {
      float* tile[kKeys];
      for (int i = 0; i < kKeys; ++i) tile[i] = to[i] + column;
      tile_scores(block + column, key, w, tile);
    }
  }
}

// Every sub-key is written behind the list, and counted if it is new: a branch on that could not be predicted.
template <typename Real>
void collect_half(int64_t sub_key, Real grad, Real* sum, char* seen, int32_t* list, int32_t& count) {
  list[count] = static_cast<int32_t>(sub_key);
  count += !seen[sub_key];
  seen[sub_key] = 1;
  sum[sub_key] += grad;
}

template <typename Real>
void take_sums(Real* sum, char* seen, const int32_t* list, int32_t begin, int32_t end, Real* grad) {
  for (int32_t e = begin; e < end; ++e) {
    grad[e] = sum[list[e]];
    sum[list[e]] = 0;
    seen[list[e]] = 0;
  }
}

template <typename Real>
int64_t collect(const int64_t* index, const Real* grad_score, int64_t stride, int64_t tokens, int64_t top_k, int64_t n1,
                int64_t n2, const SelectedSubKeys<Real>& first, const SelectedSubKeys<Real>& second, Real* scratch,
                char* seen) {
  Real *sum1 = scratch, *sum2 = scratch + n1;
  char *seen1 = seen, *seen2 = seen + n1;
  const double inverse = 1 / static_cast<double>(n2);
  const uint64_t addresses = static_cast<uint64_t>(n1) * static_cast<uint64_t>(n2);
  int32_t count1 = 0, count2 = 0;
  for (int64_t t = 0; t < tokens; ++t) {
    first.start[t] = count1;
    second.start[t] = count2;
    for (int64_t r = t * stride; r < t * stride + top_k; ++r) {
      if (static_cast<uint64_t>(index[r]) >= addresses) return r;
      // The quotient by a product may be one off; an integer division costs three times as much.
      int64_t i = static_cast<int64_t>(static_cast<double>(index[r]) * inverse), j = index[r] - i * n2;
      const int64_t off = (j >= n2) - (j < 0);
      i += off;
      j -= off * n2;
      collect_half(i, grad_score[r], sum1, seen1, first.sub_key, count1);
      collect_half(j, grad_score[r], sum2, seen2, second.sub_key, count2);
    }
    take_sums(sum1, seen1, first.sub_key, first.start[t], count1, first.grad);
    take_sums(sum2, seen2, second.sub_key, second.start[t], count2, second.grad);
  }
  first.start[tokens] = count1;
  second.start[tokens] = count2;
  return -1;
}

// Tokens' rows lie apart, where the CPU does not see them coming: they are fetched so many tokens ahead (a tenth less
// time for 4,096 tokens of n = 512, top-k 32).
constexpr int64_t kTokensAhead = 6;

template <int kValue>
struct Count {};

// Columns 0 .. w-1 in groups of four, two and one vector, full(c, Count<vectors>); what is less than a vector is
// rest(c, columns).
template <typename Real, typename Full, typename Rest>
void over_columns(int64_t w, const Full& full, const Rest& rest) {
  constexpr int64_t L = kLanes<Real>;
  int64_t c = 0;
  for (; c + 4 * L <= w; c += 4 * L) full(c, Count<4>{});
  if (c + 2 * L <= w) {
    full(c, Count<2>{});
    c += 2 * L;
  }
  if (c + L <= w) {
    full(c, Count<1>{});
    c += L;
  }
  if (c < w) rest(c, w - c);
}

// A group of one token's columns stays in registers over all its sub-keys.
template <typename Real>
void grad_query(const SelectedSubKeys<Real>& selected, const Real* keys, int64_t tokens, int64_t w, Real* grad_query,
                int64_t stride) {
  constexpr int64_t L = kLanes<Real>;
  for (int64_t t = 0; t < tokens; ++t) {
    Real* const to = grad_query + t * stride;
    const int32_t begin = selected.start[t], end = selected.start[t + 1];
    const auto full = [&]<int kVectors>(int64_t c, Count<kVectors>) {
      Vector<Real> sum[kVectors] = {};
      for (int v = 0; v < kVectors; ++v) __builtin_prefetch(to + kTokensAhead * stride + c + v * L, /*write=*/1);
      for (int32_t e = begin; e < end; ++e) {
        const Real* from = keys + selected.sub_key[e] * w + c;
        const Vector<Real> factor = splat(selected.grad[e]);
        for (int v = 0; v < kVectors; ++v) sum[v] += factor * load(from + v * L);
      }
      for (int v = 0; v < kVectors; ++v) store(to + c + v * L, sum[v]);
    };
    over_columns<Real>(w, full, [&](int64_t c, int64_t columns) {
      Vector<Real> sum = {};
      for (int32_t e = begin; e < end; ++e) {
        sum += splat(selected.grad[e]) * load_first(keys + selected.sub_key[e] * w + c, columns);
      }
      store_first(to + c, sum, columns);
    });
  }
}

template <typename Real>
void grad_keys(const SelectedSubKeys<Real>& selected, const Real* query, int64_t stride, int64_t tokens, int64_t w,
               Real* grad_keys) {
  constexpr int64_t L = kLanes<Real>;
  for (int64_t t = 0; t < tokens; ++t) {
    const Real* const from = query + t * stride;
    const int32_t begin = selected.start[t], end = selected.start[t + 1];
    const auto full = [&]<int kVectors>(int64_t c, Count<kVectors>) {
      Vector<Real> q[kVectors];
      for (int v = 0; v < kVectors; ++v) {
        q[v] = load(from + c + v * L);
        __builtin_prefetch(from + kTokensAhead * stride + c + v * L);
      }
      for (int32_t e = begin; e < end; ++e) {
        Real* const to = grad_keys + selected.sub_key[e] * w + c;
        const Vector<Real> factor = splat(selected.grad[e]);
        for (int v = 0; v < kVectors; ++v) store(to + v * L, load(to + v * L) + factor * q[v]);
      }
    };
    over_columns<Real>(w, full, [&](int64_t c, int64_t columns) {
      const Vector<Real> q = load_first(from + c, columns);
      for (int32_t e = begin; e < end; ++e) {
        Real* const to = grad_keys + selected.sub_key[e] * w + c;
        store_first(to, load_first(to, columns) + splat(selected.grad[e]) * q, columns);
      }
    });
  }
}

}  // namespace

const ProductKeySearchKernel product_key_search_kernel = {scores,
                                                          {collect<float>, grad_query<float>, grad_keys<float>},
                                                          {collect<double>, grad_query<double>, grad_keys<double>}};

}  // namespace loci::LOCI_LEVEL
