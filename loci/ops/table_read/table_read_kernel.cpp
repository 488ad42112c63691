#include "loci/ops/table_read/table_read_kernel.h"

// Rows come from anywhere in a large table, so the cost is memory: whole rows are streamed, four at a time, while the
// next four are fetched; the sum of a token stays in the first-level cache.

namespace loci::LOCI_LEVEL {
namespace {

typedef float Float8 __attribute__((vector_size(32)));
typedef double Double4 __attribute__((vector_size(32)));
typedef uint16_t Short8 __attribute__((vector_size(16)));
typedef uint32_t Int8 __attribute__((vector_size(32)));

// How rows are stored, and how a vector of them is read. All conversions are exact.
struct Float64 {
  using Element = double;
  using Real = double;
  using Vector = Double4;
  static void load(const Element* from, Vector& to) { __builtin_memcpy(&to, from, sizeof to); }
  static Real one(Element x) { return x; }
};

struct Float32 {
  using Element = float;
  using Real = float;
  using Vector = Float8;
  static void load(const Element* from, Vector& to) { __builtin_memcpy(&to, from, sizeof to); }
  static Real one(Element x) { return x; }
};

struct Bfloat16 {
  using Element = uint16_t;
  using Real = float;
  using Vector = Float8;
  static void load(const Element* from, Vector& to) {
    Short8 bits;
    __builtin_memcpy(&bits, from, sizeof bits);
    const Int8 wide = __builtin_convertvector(bits, Int8) << 16;
    __builtin_memcpy(&to, &wide, sizeof to);
  }
  static Real one(Element x) {
    const uint32_t wide = static_cast<uint32_t>(x) << 16;
    Real value;
    __builtin_memcpy(&value, &wide, sizeof value);
    return value;
  }
};

struct Float16 {
  using Element = uint16_t;
  using Real = float;
  using Vector = Float8;
  static void load(const Element* from, Vector& to) {
    Real values[8];
    for (int i = 0; i < 8; ++i) values[i] = one(from[i]);
    __builtin_memcpy(&to, values, sizeof to);
  }
  // Exponent and mantissa move to float32's places, 2^112 mends the bias, also of subnormal numbers.
  static Real one(Element x) {
    const uint32_t sign = static_cast<uint32_t>(x & 0x8000) << 16;
    uint32_t bits = static_cast<uint32_t>(x & 0x7fff) << 13;
    float value;
    if (bits >= 0x0f800000) {  // infinity or NaN
      bits |= 0x7f800000;
    } else {
      __builtin_memcpy(&value, &bits, sizeof value);
      value *= 0x1p112f;
      __builtin_memcpy(&bits, &value, sizeof bits);
    }
    bits |= sign;
    __builtin_memcpy(&value, &bits, sizeof value);
    return value;
  }
};

template <typename Rows>
struct Reader {
  using Element = typename Rows::Element;
  using Real = typename Rows::Real;
  using Vector = typename Rows::Vector;
  static constexpr int64_t lanes = sizeof(Vector) / sizeof(Real);
  static constexpr int64_t together = 4;  // rows

  static const Element* row(const TableReadArguments& a, int64_t position) {
    return static_cast<const Element*>(a.table) + a.index[position] * a.row_stride;
  }

  // The rows of the positions after `position`, across the end of a token.
  static void prefetch(const TableReadArguments& a, int64_t position) {
    const int64_t end = a.tokens * a.reads;
    for (int64_t p = position + together; p < position + 2 * together && p < end; ++p) {
      const char* start = reinterpret_cast<const char*>(row(a, p));
      const int64_t bytes = a.width * static_cast<int64_t>(sizeof(Element));
      for (int64_t line = 0; line < bytes; line += 64) __builtin_prefetch(start + line);
    }
  }

  // sum[d] += weight[0] * row0[d], then row1, row2, row3.
  static void add_four(const TableReadArguments& a, int64_t position, const Real* weight, Real* sum) {
    const Element* const rows[together] = {row(a, position), row(a, position + 1), row(a, position + 2),
                                           row(a, position + 3)};
    int64_t d = 0;
    for (; d + lanes <= a.width; d += lanes) {
      Vector total, value;
      __builtin_memcpy(&total, sum + d, sizeof total);
      for (int64_t r = 0; r < together; ++r) {
        Rows::load(rows[r] + d, value);
        total += value * weight[r];
      }
      __builtin_memcpy(sum + d, &total, sizeof total);
    }
    for (; d < a.width; ++d) {
      for (int64_t r = 0; r < together; ++r) sum[d] += Rows::one(rows[r][d]) * weight[r];
    }
  }

  static void add_one(const TableReadArguments& a, int64_t position, Real weight, Real* sum) {
    const Element* const one = row(a, position);
    int64_t d = 0;
    for (; d + lanes <= a.width; d += lanes) {
      Vector total, value;
      __builtin_memcpy(&total, sum + d, sizeof total);
      Rows::load(one + d, value);
      total += value * weight;
      __builtin_memcpy(sum + d, &total, sizeof total);
    }
    for (; d < a.width; ++d) sum[d] += Rows::one(one[d]) * weight;
  }

  static void read(const TableReadArguments& a, int64_t first, int64_t last) {
    for (int64_t t = first; t < last; ++t) {
      const Real* weight = static_cast<const Real*>(a.factor) + t * a.reads;
      Real* sum = static_cast<Real*>(a.out) + t * a.width;
      for (int64_t d = 0; d < a.width; ++d) sum[d] = 0;
      int64_t r = 0;
      for (; r + together <= a.reads; r += together) {
        prefetch(a, t * a.reads + r);
        add_four(a, t * a.reads + r, weight + r, sum);
      }
      for (; r < a.reads; ++r) add_one(a, t * a.reads + r, weight[r], sum);
    }
  }

  // A dot product in 16 partial sums, the same at every level, added pairwise at the end.
  static Real dot(const Real* grad, const Element* one, int64_t width) {
    constexpr int64_t partials = 16;
    constexpr int64_t vectors = partials / lanes;
    Vector partial[vectors] = {};
    int64_t d = 0;
    for (; d + partials <= width; d += partials) {
      for (int64_t v = 0; v < vectors; ++v) {
        Vector left, right;
        __builtin_memcpy(&left, grad + d + v * lanes, sizeof left);
        Rows::load(one + d + v * lanes, right);
        partial[v] += left * right;
      }
    }
    Real sum[partials];
    __builtin_memcpy(sum, partial, sizeof sum);
    for (int64_t l = 0; d < width; ++d, ++l) sum[l] += grad[d] * Rows::one(one[d]);
    for (int64_t step = partials / 2; step > 0; step /= 2) {
      for (int64_t l = 0; l < step; ++l) sum[l] += sum[l + step];
    }
    return sum[0];
  }

  static void backward_weight(const TableReadArguments& a, int64_t first, int64_t last) {
    for (int64_t t = first; t < last; ++t) {
      const Real* grad = static_cast<const Real*>(a.factor) + t * a.width;
      for (int64_t p = t * a.reads; p < (t + 1) * a.reads; ++p) {
        if (p % together == 0) prefetch(a, p);
        static_cast<Real*>(a.out)[p] = dot(grad, row(a, p), a.width);
      }
    }
  }

  static constexpr TableReadKernel::OfRows functions() { return {read, backward_weight}; }
};

}  // namespace

const TableReadKernel table_read_kernel = {Reader<Float64>::functions(), Reader<Float32>::functions(),
                                           Reader<Bfloat16>::functions(), Reader<Float16>::functions()};

}  // namespace loci::LOCI_LEVEL
