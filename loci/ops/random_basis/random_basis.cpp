// Legend: n weights, d directions, G groups of 256 weights.
#include "loci/ops/random_basis/random_basis.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/bitwise_right_shift.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/full_like.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <bit>
#include <cmath>
#include <vector>

#include "loci/ops/operator.h"
#include "loci/ops/random_basis/random_basis_definition.h"

namespace loci {

using at::Tensor;

namespace {

constexpr int64_t kBasisCounters = 16, kBasisWord = 0xffffffff;

// Both halves of a symmetric table, from its positive values.
constexpr std::array<int8_t, 16> symmetric(const std::array<int8_t, 8>& positive) {
  std::array<int8_t, 16> both{};
  for (size_t i = 0; i < 8; ++i) {
    both[7 - i] = static_cast<int8_t>(-positive[i]);
    both[8 + i] = positive[i];
  }
  return both;
}

constexpr BasisTable table_from(const std::array<int8_t, 16>& low, const std::array<int8_t, 16>& high) {
  int64_t squares = 0;
  for (const int64_t a : low) {
    for (const int64_t b : high) squares += (a + b) * (a + b);
  }
  return {low, high, static_cast<double>(squares) / 256};
}

// Found by a search for the moments 3 and 15 of N(0, 1) and the least distance from its distribution.
constexpr BasisTable kNormalTable =
    table_from(symmetric({4, 9, 10, 18, 25, 35, 36, 54}), symmetric({2, 2, 5, 7, 10, 14, 18, 55}));
constexpr BasisTable kSignTable = table_from({}, symmetric({1, 1, 1, 1, 1, 1, 1, 1}));

at::ScalarType computed_in(at::ScalarType type) {
  return type == at::kDouble ? at::kDouble : at::kFloat;
}

// Philox 4x32-10 (base/random.h) in int64: the words of counters (block, direction, compartment, step).
std::vector<Tensor> basis_words(const Tensor& block, int64_t direction, const BasisKey& key) {
  const auto multiply = [](const Tensor& x, int64_t factor, Tensor& low, Tensor& high) {
    const Tensor product = x * factor;  // modulo 2^64
    low = product.bitwise_and(kBasisWord);
    high = at::bitwise_right_shift(product, 32).bitwise_and(kBasisWord);
  };
  const auto seed = static_cast<uint64_t>(key.seed);
  auto key0 = static_cast<uint32_t>(seed), key1 = static_cast<uint32_t>(seed >> 32);
  std::vector<Tensor> c = {block, at::full_like(block, direction), at::full_like(block, key.compartment),
                           at::full_like(block, key.step)};
  for (int round = 0; round < 10; ++round) {
    Tensor low0, high0, low1, high1;
    multiply(c[0], 0xD2511F53, low0, high0);
    multiply(c[2], 0xCD9E8D57, low1, high1);
    c = {high1.bitwise_xor(c[1]).bitwise_xor(static_cast<int64_t>(key0)), low1,
         high0.bitwise_xor(c[3]).bitwise_xor(static_cast<int64_t>(key1)), low0};
    key0 += 0x9E3779B9;
    key1 += 0xBB67AE85;
  }
  return c;
}

// x [.., a power of two] by halves.
Tensor halved_sum(Tensor x) {
  for (int64_t left = x.size(-1) / 2; left > 0; left /= 2) x = x.narrow(-1, 0, left) + x.narrow(-1, left, left);
  return x.squeeze(-1);
}

void check_directions(const char* who, int64_t first, int64_t directions, const BasisKey& key) {
  constexpr int64_t most = int64_t{1} << 31;
  TORCH_CHECK(first >= 0 && directions >= 0 && first <= most && directions <= most - first, who,
              ": first and directions must be within 0 .. 2^31 in all, got ", first, " and ", directions);
  TORCH_CHECK(key.step >= 0 && key.step <= kBasisWord, who, ": step must be within 0 .. 2^32 - 1, got ", key.step);
  TORCH_CHECK(key.compartment >= 0 && key.compartment <= kBasisWord, who,
              ": compartment must be within 0 .. 2^32 - 1, got ", key.compartment);
  TORCH_CHECK(key.values == BasisValues::normal || key.values == BasisValues::signs, who,
              ": values must be 0 (normal) or 1 (signs), got ", static_cast<int64_t>(key.values));
}

void check_weights(const char* who, const char* name, const Tensor& weights) {
  TORCH_CHECK(at::isFloatingType(weights.scalar_type()), who, ": ", name, " must be of a floating type, got ",
              weights.scalar_type());
  TORCH_CHECK(weights.sym_numel() < (int64_t{1} << 36), who, ": ", name, " must have fewer than 2^36 numbers, got ",
              weights.sym_numel());
}

}  // namespace

const BasisTable& basis_table(BasisValues values) {
  return values == BasisValues::signs ? kSignTable : kNormalTable;
}

double basis_scale(int64_t n, const BasisKey& key) {
  return 1 / std::sqrt(static_cast<double>(n) * basis_table(key.values).mean_square);
}

void check_random_basis_dot(const Tensor& gradient, int64_t first, int64_t directions, const BasisKey& key) {
  check_weights("random_basis_dot", "gradient", gradient);
  check_directions("random_basis_dot", first, directions, key);
}

void check_random_basis_add(const Tensor& theta, const Tensor& coefficients, int64_t first, const BasisKey& key) {
  check_weights("random_basis_add", "theta", theta);
  const at::ScalarType type = computed_in(theta.scalar_type());
  TORCH_CHECK(coefficients.dim() == 1 && coefficients.scalar_type() == type,
              "random_basis_add: coefficients must be [d] of ", type, " for theta of ", theta.scalar_type(), ", got ",
              coefficients.sym_sizes(), " of ", coefficients.scalar_type());
  TORCH_CHECK(coefficients.device() == theta.device(), "random_basis_add: coefficients must be on ", theta.device(),
              " like theta, got ", coefficients.device());
  check_directions("random_basis_add", first, coefficients.size(0), key);
}

Tensor basis_values(int64_t n, int64_t first, int64_t directions, const BasisKey& key, const Tensor& like) {
  const BasisTable& table = basis_table(key.values);
  std::vector<int64_t> value_of_byte;
  for (size_t byte = 0; byte < 256; ++byte) value_of_byte.push_back(table.low[byte % 16] + table.high[byte / 16]);
  const Tensor values = at::tensor(value_of_byte, at::kDouble).to(like.options());  // [256]
  const int64_t groups = (n + kBasisGroup - 1) / kBasisGroup;
  const auto integers = like.options().dtype(at::kLong);
  const Tensor block = at::arange(groups * kBasisCounters, integers);  // [16 G]
  const Tensor shift = at::arange(0, 32, 8, integers).view({1, 1, 4, 1});
  std::vector<Tensor> rows = {at::empty({0, n}, like.options())};
  for (int64_t i = 0; i < directions; ++i) {
    const Tensor words = at::stack(basis_words(block, first + i, key)).view({4, groups, 1, kBasisCounters});
    const Tensor bytes = at::bitwise_right_shift(words.transpose(0, 1), shift).bitwise_and(255);  // [G, 4, 4, 16]
    rows.push_back(values.index_select(0, bytes.reshape(-1)).narrow(0, 0, n).unsqueeze(0));
  }
  return at::cat(rows);
}

Tensor random_basis(int64_t n, int64_t first, int64_t directions, const BasisKey& key, at::ScalarType type) {
  TORCH_CHECK(n >= 0 && n < (int64_t{1} << 36), "random_basis: n must be within 0 .. 2^36 - 1, got ", n);
  check_directions("random_basis", first, directions, key);
  return basis_values(n, first, directions, key, at::empty({0}, type)) * basis_scale(n, key);
}

// On Meta, for compilation and export, it checks alone.
Tensor random_basis_dot_definition(const Tensor& gradient, int64_t first, int64_t directions, const BasisKey& key) {
  check_random_basis_dot(gradient, first, directions, key);
  const at::ScalarType type = computed_in(gradient.scalar_type());
  if (gradient.is_meta()) return at::empty({directions}, gradient.options().dtype(type));
  const int64_t n = gradient.numel();
  if (n == 0) return at::zeros({directions}, gradient.options().dtype(type));
  const int64_t blocks = (n + kBasisBlock - 1) / kBasisBlock;
  const auto cut = [&](const Tensor& x) {  // [.., n] -> [.., blocks, rows, 64]
    const Tensor whole = at::constant_pad_nd(x, {0, blocks * kBasisBlock - n});
    return whole.view({-1, blocks, kBasisBlock / kBasisLanes, kBasisLanes});
  };
  const Tensor g = cut(gradient.reshape({1, -1}).to(type));
  const Tensor v = cut(basis_values(n, first, directions, key, g));  // [d, blocks, rows, 64]
  Tensor lanes = at::zeros({directions, blocks, kBasisLanes}, g.options());
  for (int64_t row = 0; row < g.size(2); ++row) lanes = lanes + g.select(2, row) * v.select(2, row);
  const Tensor sums = halved_sum(lanes.to(at::kDouble));  // [d, blocks]
  const auto whole = static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(blocks)));
  return (halved_sum(at::constant_pad_nd(sums, {0, whole - blocks})) * basis_scale(n, key)).to(type);
}

void random_basis_add_definition(const Tensor& theta, const Tensor& coefficients, double factor, int64_t first,
                                 const BasisKey& key) {
  check_random_basis_add(theta, coefficients, first, key);
  if (theta.is_meta() || theta.numel() == 0) return;
  const int64_t n = theta.numel();
  const Tensor c = coefficients.detach();
  const Tensor v = basis_values(n, first, c.size(0), key, c);  // [d, n]
  Tensor total = at::zeros({n}, c.options());
  for (int64_t i = 0; i < c.size(0); ++i) total = total + c[i] * v[i];
  const double scale = factor * basis_scale(n, key);
  const Tensor step = total * at::full({}, scale, c.options());
  const Tensor values = theta.detach();
  values.copy_(values.to(c.scalar_type()) + step.view(theta.sizes()));
}

namespace {

Tensor dot_by_definition(const Tensor& gradient, int64_t first, int64_t directions, int64_t seed, int64_t step,
                         int64_t compartment, int64_t values) {
  return random_basis_dot_definition(gradient, first, directions,
                                     {seed, step, compartment, static_cast<BasisValues>(values)});
}
void add_by_definition(const Tensor& theta, const Tensor& coefficients, double factor, int64_t first, int64_t seed,
                       int64_t step, int64_t compartment, int64_t values) {
  random_basis_add_definition(theta, coefficients, factor, first,
                              {seed, step, compartment, static_cast<BasisValues>(values)});
}

}  // namespace

Tensor random_basis_dot(const Tensor& gradient, int64_t first, int64_t directions, const BasisKey& key) {
  return call_operator<"loci::random_basis_dot", decltype(dot_by_definition)>(
      gradient, first, directions, key.seed, key.step, key.compartment, static_cast<int64_t>(key.values));
}

void random_basis_add(const Tensor& theta, const Tensor& coefficients, double factor, int64_t first,
                      const BasisKey& key) {
  call_operator<"loci::random_basis_add_", decltype(add_by_definition)>(
      theta, coefficients, factor, first, key.seed, key.step, key.compartment, static_cast<int64_t>(key.values));
}

// An update has no gradient, and its weights are leaves that require one: autograd lets it pass.
TORCH_LIBRARY_FRAGMENT(loci, m) {
  define_operator(m,
                  "random_basis_dot(Tensor gradient, int first, int directions, int seed, int step, int compartment, "
                  "int values=0) -> Tensor",
                  dot_by_definition, not_differentiable());
  define_operator(m,
                  "random_basis_add_(Tensor(a!) theta, Tensor coefficients, float factor, int first, int seed, int "
                  "step, int compartment, int values=0) -> ()",
                  add_by_definition, torch::CppFunction::makeFallthrough());
}
TORCH_LIBRARY_IMPL(loci, ADInplaceOrView, m) {
  m.impl("random_basis_add_", moves_versions());
}

}  // namespace loci
