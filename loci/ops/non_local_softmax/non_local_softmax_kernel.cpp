#include "loci/ops/non_local_softmax/non_local_softmax_kernel.h"

#include "loci/ops/vector_kernel.h"

namespace loci::LOCI_LEVEL {
namespace {

typedef float Floats __attribute__((vector_size(kVectorBytes), aligned(4), may_alias));
typedef uint32_t Bits __attribute__((vector_size(kVectorBytes), aligned(4), may_alias));
constexpr int64_t kLanes = kVectorBytes / 4, kPartials = 16, kVectors = kPartials / kLanes;

// The numbers that one step takes: 16 at every level.
struct Step {
  Floats part[kVectors];
};

inline Floats all(float x) {
  return x - Floats{};
}

// exp for x <= 0: 2^n p(r), |r| <= ln 2 / 2, after Cephes' expf; 0 below the smallest normal number.
inline Floats exp_of(Floats x) {
  constexpr float kLeast = -87.33654F, kRound = 12582912.F;  // 1.5 * 2^23: the sum's last bits are the integer
  const auto tiny = x < kLeast;
  const Floats clamped = tiny ? all(kLeast) : x;
  const Floats shifted = clamped * 1.44269504F + kRound;
  const Floats n = shifted - kRound;
  const Floats r = clamped - n * 0.693359375F + n * 2.12194440e-4F;
  Floats p = r * 1.9875691500e-4F + 1.3981999507e-3F;
  p = p * r + 8.3334519073e-3F;
  p = p * r + 4.1665795894e-2F;
  p = p * r + 1.6666665459e-1F;
  p = p * r + 5.0000001201e-1F;
  p = p * (r * r) + r + 1.F;
  const Bits power = ((Bits)shifted - (Bits)all(kRound) + 127) << 23;
  return tiny ? Floats{} : p * (Floats)power;
}

inline float number_of(float x) {
  return x;
}
inline float number_of(uint16_t x) {
  const uint32_t bits = static_cast<uint32_t>(x) << 16;
  float result;
  __builtin_memcpy(&result, &bits, 4);
  return result;
}
inline void put_number(float x, float* to) {
  *to = x;
}
// To the nearest, halves to even; a NaN stays one.
inline void put_number(float x, uint16_t* to) {
  uint32_t bits;
  __builtin_memcpy(&bits, &x, 4);
  *to = x != x ? 0x7FC0 : static_cast<uint16_t>((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16);
}

// A row to work on in float32: itself, or its copy.
inline float* float_row(float* s, int64_t /*M*/, float* /*scratch*/) {
  return s;
}
inline float* float_row(uint16_t* s, int64_t M, float* scratch) {
  for (int64_t c = 0; c < M; ++c) scratch[c] = number_of(s[c]);
  return scratch;
}

template <class Term>
inline float folded(Step sum, const Term& term) {
  alignas(64) float lane[kPartials];
  for (int64_t v = 0; v < kVectors; ++v) __builtin_memcpy(lane + v * kLanes, &sum.part[v], kVectorBytes);
  for (int64_t half = kPartials / 2; half > 0; half /= 2) {
    for (int64_t i = 0; i < half; ++i) lane[i] = term(lane[i], lane[i + half]);
  }
  return lane[0];
}

inline float greater_of(float a, float b) {
  return a > b || a != a ? a : b;
}

float greatest(const float* x, int64_t M) {
  float best = x[0];
  int64_t c = 0;
  if (M >= kPartials) {
    Step most;
    for (int64_t v = 0; v < kVectors; ++v) most.part[v] = reinterpret_cast<const Floats*>(x)[v];
    for (c = kPartials; c + kPartials <= M; c += kPartials) {
      for (int64_t v = 0; v < kVectors; ++v) {
        const Floats next = reinterpret_cast<const Floats*>(x + c)[v], now = most.part[v];
        most.part[v] = (now > next) | (now != now) ? now : next;
      }
    }
    best = folded(most, greater_of);
  }
  for (; c < M; ++c) best = greater_of(best, x[c]);
  return best;
}

// x := exp(x - most); its sum.
float exp_row(float* x, int64_t M, float most) {
  Step sum = {};
  int64_t c = 0;
  for (; c + kPartials <= M; c += kPartials) {
    for (int64_t v = 0; v < kVectors; ++v) {
      Floats& entry = reinterpret_cast<Floats*>(x + c)[v];
      entry = exp_of(entry - most);
      sum.part[v] += entry;
    }
  }
  if (c < M) {
    // -inf gives 0, which changes no sum.
    alignas(64) float rest[kPartials];
    for (int64_t i = 0; i < kPartials; ++i) rest[i] = c + i < M ? x[c + i] - most : -__builtin_inff();
    for (int64_t v = 0; v < kVectors; ++v) {
      Floats& entry = reinterpret_cast<Floats*>(rest)[v];
      entry = exp_of(entry);
      sum.part[v] += entry;
    }
    for (int64_t i = 0; c + i < M; ++i) x[c + i] = rest[i];
  }
  return folded(sum, [](float a, float b) { return a + b; });
}

template <class Stored>
void softmax_rows(Stored* s, int64_t R, int64_t M, float* scratch) {
  for (int64_t r = 0; r < R; ++r, s += M) {
    float* const row = float_row(s, M, scratch);
    const float factor = 1 / exp_row(row, M, greatest(row, M));
    for (int64_t c = 0; c < M; ++c) put_number(row[c] * factor, s + c);
  }
}

template <class Stored>
void softmax_gradient_rows(const Stored* p, Stored* dp, int64_t R, int64_t M, float scale) {
  for (int64_t r = 0; r < R; ++r, p += M, dp += M) {
    float sum[kPartials] = {};
    int64_t c = 0;
    for (; c + kPartials <= M; c += kPartials) {
      for (int64_t i = 0; i < kPartials; ++i) sum[i] += number_of(p[c + i]) * number_of(dp[c + i]);
    }
    for (int64_t i = 0; c + i < M; ++i) sum[i] += number_of(p[c + i]) * number_of(dp[c + i]);
    for (int64_t half = kPartials / 2; half > 0; half /= 2) {
      for (int64_t i = 0; i < half; ++i) sum[i] += sum[i + half];
    }
    for (c = 0; c < M; ++c) put_number(number_of(p[c]) * (number_of(dp[c]) - sum[0]) * scale, dp + c);
  }
}

}  // namespace

const NonLocalSoftmaxKernel non_local_softmax_kernel = {{softmax_rows<float>, softmax_gradient_rows<float>},
                                                        {softmax_rows<uint16_t>, softmax_gradient_rows<uint16_t>}};

}  // namespace loci::LOCI_LEVEL
