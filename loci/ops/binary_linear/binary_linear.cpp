#include "loci/ops/binary_linear/binary_linear.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/bitwise_left_shift.h>
#include <ATen/ops/bitwise_right_shift.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/matmul.h>

#include <limits>
#include <utility>
#include <vector>

#include "loci/ops/binary_linear/binary_linear_definition.h"
#include "loci/ops/operator.h"

// Legend: T vectors, K inputs, O outputs, w words of K signs.

namespace loci {

using at::Tensor;
using c10::SymInt;

namespace {

constexpr int64_t kBits = 64;  // of a word

SymInt words_of(const SymInt& signs) {
  return (signs + (kBits - 1)) / kBits;
}

Tensor bit_numbers(const Tensor& like) {
  return at::arange(kBits, like.options().dtype(at::kLong));
}

// [.., K] bool -> [.., w]. The sum of different powers of two is their "or", the sign bit included.
Tensor packed(const Tensor& bits) {
  const SymInt signs = bits.sym_size(-1), words = words_of(signs);
  std::vector<SymInt> sizes = bits.sym_sizes().vec();
  sizes.back() = words;
  sizes.emplace_back(kBits);
  const Tensor whole = at::constant_pad_nd_symint(bits.to(at::kLong), {SymInt(0), words * kBits - signs});
  return at::bitwise_left_shift(whole.reshape_symint(sizes), bit_numbers(bits)).sum(-1);
}

// [.., w] -> [.., K] bool.
Tensor unpacked(const Tensor& words, const SymInt& signs) {
  std::vector<SymInt> sizes = words.sym_sizes().vec();
  sizes.back() = sizes.back() * kBits;
  const Tensor bits = at::bitwise_right_shift(words.unsqueeze(-1), bit_numbers(words)).bitwise_and(1);
  return bits.reshape_symint(sizes).slice_symint(-1, 0, signs).to(at::kBool);
}

Tensor signs_of(const Tensor& words, const SymInt& signs, at::ScalarType type) {
  return 1 - 2 * unpacked(words, signs).to(type);
}

}  // namespace

void check_sign_pack(const Tensor& x) {
  TORCH_CHECK(x.dim() > 0 && at::isFloatingType(x.scalar_type()),
              "sign_pack: x must be [.., K] of a floating type, got ", x.sym_sizes(), " of ", x.scalar_type());
}

void check_binary_linear(const Tensor& a, const Tensor& b, const SymInt& inputs) {
  TORCH_CHECK(inputs >= 0 && inputs <= std::numeric_limits<int32_t>::max(),
              "binary_linear: inputs must be 0 to 2^31 - 1, got ", inputs);
  const auto check_one = [&](const char* name, const Tensor& bits) {
    TORCH_CHECK(bits.dim() == 2 && bits.scalar_type() == at::kLong && bits.sym_size(1) == words_of(inputs),
                "binary_linear: ", name, " must be [.., ", words_of(inputs), "] of Long for ", inputs, " inputs, got ",
                bits.sym_sizes(), " of ", bits.scalar_type());
  };
  check_one("a", a);
  check_one("b", b);
  TORCH_CHECK(a.device() == b.device(), "binary_linear: b must be on ", a.device(), " like a, got ", b.device());
}

void check_binary_threshold(const SymInt& outputs, const Tensor& like, const Tensor& threshold, const Tensor& turned) {
  const auto check_one = [&](const char* name, const Tensor& tensor, const SymInt& size, at::ScalarType type) {
    TORCH_CHECK(tensor.dim() == 1 && tensor.sym_size(0) == size && tensor.scalar_type() == type &&
                    tensor.device() == like.device(),
                "binary_threshold: ", name, " must be [", size, "] of ", type, " on ", like.device(), ", got ",
                tensor.sym_sizes(), " of ", tensor.scalar_type(), " on ", tensor.device());
  };
  check_one("threshold", threshold, outputs, at::kInt);
  check_one("turned", turned, words_of(outputs), at::kLong);
}

Tensor sign_pack_definition(const Tensor& x) {
  check_sign_pack(x);
  return packed(x.ge(0).bitwise_not());
}

Tensor binary_linear_definition(const Tensor& a, const Tensor& b, SymInt inputs) {
  check_binary_linear(a, b, inputs);
  const auto wide = [&](const Tensor& bits) { return signs_of(bits, inputs, at::kDouble); };  // exact
  return at::matmul(wide(a), wide(b).t()).to(at::kInt);
}

Tensor binary_threshold_definition(const Tensor& y, const Tensor& threshold, const Tensor& turned) {
  TORCH_CHECK(y.dim() == 2 && y.scalar_type() == at::kInt, "binary_threshold: y must be [T, O] of Int, got ",
              y.sym_sizes(), " of ", y.scalar_type());
  check_binary_threshold(y.sym_size(1), y, threshold, turned);
  return packed(y.lt(threshold).ne(unpacked(turned, y.sym_size(1))));
}

Tensor binary_layer_definition(const Tensor& a, const Tensor& b, SymInt inputs, const Tensor& threshold,
                               const Tensor& turned) {
  return binary_threshold_definition(binary_linear_definition(a, b, std::move(inputs)), threshold, turned);
}

Tensor sign_pack(const Tensor& x) {
  return call_operator<"loci::sign_pack", decltype(sign_pack)>(x);
}

Tensor binary_linear(const Tensor& a, const Tensor& b, int64_t inputs) {
  return call_operator<"loci::binary_linear", Tensor(const Tensor&, const Tensor&, SymInt)>(a, b, inputs);
}

Tensor binary_threshold(const Tensor& y, const Tensor& threshold, const Tensor& turned) {
  return call_operator<"loci::binary_threshold", decltype(binary_threshold)>(y, threshold, turned);
}

Tensor binary_layer(const Tensor& a, const Tensor& b, int64_t inputs, const Tensor& threshold, const Tensor& turned) {
  return call_operator<"loci::binary_layer", Tensor(const Tensor&, const Tensor&, SymInt, const Tensor&,
                                                    const Tensor&)>(a, b, inputs, threshold, turned);
}

Tensor sign_unpack(const Tensor& bits, int64_t inputs, at::ScalarType type) {
  TORCH_CHECK(inputs >= 0 && bits.dim() > 0 && bits.scalar_type() == at::kLong &&
                  words_of(inputs) == bits.sym_size(-1) && at::isFloatingType(type),
              "sign_unpack: bits must be [.., ceil(inputs / 64)] of Long for ", inputs,
              " inputs, as a floating type, got ", bits.sym_sizes(), " of ", bits.scalar_type(), " as ", type);
  return signs_of(bits, inputs, type);
}

TORCH_LIBRARY_FRAGMENT(loci, m) {
  define_operator(m, "sign_pack(Tensor x) -> Tensor", sign_pack_definition, not_differentiable());
  define_operator(m, "binary_linear(Tensor a, Tensor b, SymInt inputs) -> Tensor", binary_linear_definition,
                  not_differentiable());
  define_operator(m, "binary_threshold(Tensor y, Tensor threshold, Tensor turned) -> Tensor",
                  binary_threshold_definition, not_differentiable());
  define_operator(m, "binary_layer(Tensor a, Tensor b, SymInt inputs, Tensor threshold, Tensor turned) -> Tensor",
                  binary_layer_definition, not_differentiable());
}

}  // namespace loci
