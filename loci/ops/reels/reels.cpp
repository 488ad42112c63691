#include "loci/ops/reels/reels.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/bitwise_right_shift.h>
#include <ATen/ops/full_like.h>
#include <ATen/ops/gather.h>
#include <ATen/ops/stack.h>

#include <array>
#include <limits>
#include <utility>
#include <vector>

#include "loci/ops/operator.h"
#include "loci/ops/reels/reels_definition.h"

// Legend: K reels, N weights.

namespace loci {

using at::Tensor;
using c10::SymInt;

namespace {

constexpr int64_t kMask = 0xffffffff;
constexpr int64_t kMostWeights = int64_t{1} << 40;
constexpr double kInfinity = std::numeric_limits<double>::infinity();

Tensor high_half(const Tensor& x) {
  return at::bitwise_right_shift(x, 32).bitwise_and(kMask);
}

// Philox of loci/base/random.h, in words of 32 bits that int64 holds; products wrap around in 64 bits.
std::array<Tensor, 4> philox_words(const Tensor& position, int64_t seed, int64_t stream) {
  std::array<Tensor, 4> c = {position.bitwise_and(kMask), high_half(position), at::full_like(position, stream & kMask),
                             at::full_like(position, stream >> 32 & kMask)};
  int64_t key0 = seed & kMask, key1 = seed >> 32 & kMask;
  for (int round = 0; round < 10; ++round) {
    const Tensor a = c[0] * int64_t{0xD2511F53}, b = c[2] * int64_t{0xCD9E8D57};
    c = {high_half(b).bitwise_xor(c[1]).bitwise_xor(key0), b.bitwise_and(kMask),
         high_half(a).bitwise_xor(c[3]).bitwise_xor(key1), a.bitwise_and(kMask)};
    key0 = (key0 + 0x9E3779B9) & kMask;
    key1 = (key1 + 0xBB67AE85) & kMask;
  }
  return c;
}

// 0 .. N-1 in the sizes of `like`.
Tensor places_of(const Tensor& like) {
  return at::arange(like.sym_numel(), like.options().dtype(at::kLong)).reshape_symint(like.sym_sizes());
}

// (floor(word / 2^7 as int32) | 1) * unit
Tensor value_of(const Tensor& word, double unit) {
  constexpr int64_t sign = int64_t{1} << 31;
  return at::bitwise_right_shift(word.bitwise_xor(sign) - sign, 7).bitwise_or(1).to(at::kFloat) * unit;
}

Tensor without_nan(const Tensor& scores) {
  return scores.masked_fill(scores.ne(scores), -kInfinity);  // where and isnan have no Meta kernel
}

Tensor greedy_choice(const Tensor& scores) {
  return without_nan(scores).argmax(0).to(at::kByte);
}

Tensor drawn_choice(const Tensor& scores, int64_t seed, int64_t stream, int64_t draw) {
  const Tensor wide = without_nan(scores).to(at::kDouble);
  const Tensor sum = (wide - wide.amax(0)).exp().cumsum(0);  // [K, ..]
  constexpr auto first_bit = std::numeric_limits<int64_t>::min();
  const auto words = philox_words(places_of(scores.select(0, 0)).bitwise_or(first_bit), seed, stream ^ draw);
  const Tensor bits = at::bitwise_right_shift(words[0], 11) + words[1] * (int64_t{1} << 21);  // 53
  const Tensor limit = bits.to(at::kDouble) * 0x1p-53 * sum.select(0, -1);
  return sum.slice(0, 0, -1).le(limit).sum(0).to(at::kByte);
}

// grad * value, or 0 where another reel is chosen.
Tensor gradient_of(const Tensor& grad, const Tensor& choice, const Tensor& values, bool chosen_only) {
  const Tensor all = grad.unsqueeze(0) * values.to(grad.scalar_type());
  if (!chosen_only) return all;
  const Tensor number = at::arange(values.sym_size(0), choice.options()).to(at::kByte);  // [K]
  std::vector<int64_t> sizes(static_cast<size_t>(values.dim()), 1);
  sizes[0] = -1;
  return all.masked_fill(choice.unsqueeze(0).ne(number.view(sizes)), 0);
}

Tensor chosen_values(const Tensor& values, const Tensor& choice, at::ScalarType type) {
  return at::gather(values, 0, choice.to(at::kLong).unsqueeze(0)).squeeze(0).to(type);
}

}  // namespace

void check_reels(const char* who, const SymInt& reels) {
  TORCH_CHECK(reels >= 1 && reels <= kMostReels, who, ": reels must be 1 to ", kMostReels, ", got ", reels);
}

void check_reel_scores(const char* who, const Tensor& scores) {
  TORCH_CHECK(scores.dim() >= 1 && (scores.scalar_type() == at::kFloat || scores.scalar_type() == at::kDouble), who,
              ": scores must be [K, ..] of float32 or float64, got ", scores.sym_sizes(), " of ", scores.scalar_type());
  check_reels(who, scores.sym_size(0));
  TORCH_CHECK(scores.sym_numel() < kMostWeights, who, ": scores must be fewer than 2^40, got ", scores.sym_numel());
}

void check_reel_gradient(const char* who, const Tensor& grad, const Tensor& choice, const SymInt& reels) {
  check_reels(who, reels);
  TORCH_CHECK(grad.scalar_type() == at::kFloat || grad.scalar_type() == at::kDouble, who,
              ": grad must be float32 or float64, got ", grad.scalar_type());
  TORCH_CHECK(
      choice.scalar_type() == at::kByte && choice.sym_sizes() == grad.sym_sizes() && choice.device() == grad.device(),
      who, ": choice must be ", grad.sym_sizes(), " of Byte on ", grad.device(), " like grad, got ", choice.sym_sizes(),
      " of ", choice.scalar_type(), " on ", choice.device());
}

void check_reel_step(const Tensor& scores, const std::optional<Tensor>& velocity, const Tensor& weight,
                     const Tensor& choice, const Tensor& grad, double momentum) {
  constexpr const char* who = "reel_step";
  check_reel_scores(who, scores);
  check_reel_gradient(who, grad, choice, scores.sym_size(0));
  const auto check_one = [&](const char* name, const Tensor& one, c10::SymIntArrayRef sizes) {
    TORCH_CHECK(
        one.sym_sizes() == sizes && one.scalar_type() == scores.scalar_type() && one.device() == scores.device(), who,
        ": ", name, " must be ", sizes, " of ", scores.scalar_type(), " on ", scores.device(), ", got ",
        one.sym_sizes(), " of ", one.scalar_type(), " on ", one.device());
  };
  check_one("grad", grad, scores.sym_sizes().slice(1));
  check_one("weight", weight, scores.sym_sizes().slice(1));
  if (velocity) check_one("velocity", *velocity, scores.sym_sizes());
  TORCH_CHECK(velocity || momentum == 0, who, ": velocity must be a tensor for a momentum above 0, got none for ",
              momentum);
  TORCH_CHECK(scores.is_contiguous() && weight.is_contiguous() && choice.is_contiguous() &&
                  (!velocity || velocity->is_contiguous()),
              who, ": scores, velocity, weight and choice must be contiguous, got others");
}

Tensor reel_values_definition(const Tensor& like, SymInt reels, int64_t seed, int64_t stream, double bound) {
  check_reels("reel_values", reels);
  const double unit = static_cast<double>(static_cast<float>(bound)) * 0x1p-24;
  const Tensor places = places_of(like);
  std::vector<Tensor> planes;
  const int64_t K = reels.guard_int(__FILE__, __LINE__);
  for (int64_t group = 0; 4 * group < K; ++group) {
    const auto words = philox_words(places.bitwise_or(group << 40), seed, stream);
    for (int64_t k = 4 * group; k < std::min(K, 4 * group + 4); ++k) {
      planes.push_back(value_of(words[static_cast<size_t>(k % 4)], unit));
    }
  }
  return at::stack(planes);
}

std::tuple<Tensor, Tensor> reel_weights_definition(const Tensor& scores, int64_t seed, int64_t stream, double bound,
                                                   int64_t draw, bool /*chosen_only*/) {
  check_reel_scores("reel_weights", scores);
  const Tensor choice = draw < 0 ? greedy_choice(scores) : drawn_choice(scores, seed, stream, draw);
  const Tensor values = reel_values_definition(choice, scores.sym_size(0), seed, stream, bound);
  return {chosen_values(values, choice, scores.scalar_type()), choice};
}

Tensor reel_score_gradient_definition(const Tensor& grad, const Tensor& choice, SymInt reels, int64_t seed,
                                      int64_t stream, double bound, bool chosen_only) {
  check_reel_gradient("reel_score_gradient", grad, choice, reels);
  const Tensor values = reel_values_definition(grad, std::move(reels), seed, stream, bound);
  return gradient_of(grad, choice, values, chosen_only);
}

// Each product is rounded before it is added: as the kernels do, which do not contract.
void reel_step_definition(const Tensor& scores, const std::optional<Tensor>& velocity, const Tensor& weight,
                          const Tensor& choice, const Tensor& grad, int64_t seed, int64_t stream, double bound,
                          double rate, double momentum, double decay, double divisor, bool nesterov, bool chosen_only,
                          bool choose) {
  check_reel_step(scores, velocity, weight, choice, grad, momentum);
  if (scores.is_meta()) return;
  const Tensor values = reel_values_definition(grad, scores.sym_size(0), seed, stream, bound);
  Tensor g = gradient_of(grad * (1 / divisor), choice, values, chosen_only) + scores * decay;
  if (velocity) {
    velocity->mul_(momentum).add_(g);
    g = nesterov ? g + *velocity * momentum : *velocity;
  }
  scores.sub_(g * rate);
  if (!choose) return;
  choice.copy_(greedy_choice(scores));
  weight.copy_(chosen_values(values, choice, weight.scalar_type()));
}

namespace {

using Pair = std::tuple<Tensor, Tensor>;

Pair call_reel_weights(const Tensor& scores, int64_t seed, int64_t stream, double bound, int64_t draw,
                       bool chosen_only) {
  return call_operator<"loci::reel_weights", decltype(call_reel_weights)>(scores, seed, stream, bound, draw,
                                                                          chosen_only);
}

Tensor call_score_gradient(const Tensor& grad, const Tensor& choice, SymInt reels, int64_t seed, int64_t stream,
                           double bound, bool chosen_only) {
  return call_operator<"loci::reel_score_gradient", decltype(call_score_gradient)>(grad, choice, std::move(reels), seed,
                                                                                   stream, bound, chosen_only);
}

std::vector<Tensor> reel_weights_gradient(const BackwardPass& pass) {
  const auto& numbers = pass.constants;
  return {call_score_gradient(pass.grad[0], pass.saved[0], numbers[0].toInt(), numbers[1].toInt(), numbers[2].toInt(),
                              numbers[3].toDouble(), numbers[4].toBool())};
}

Pair reel_weights_autograd_entry(const Tensor& scores, int64_t seed, int64_t stream, double bound, int64_t draw,
                                 bool chosen_only) {
  return tuple_of<2>(once_differentiable<reel_weights_gradient>("reel_weights", {scores}, [&] {
    const auto [weight, choice] = call_reel_weights(scores, seed, stream, bound, draw, chosen_only);
    const int64_t reels = scores.sym_size(0).guard_int(__FILE__, __LINE__);
    return ForwardPass{{weight, choice}, {choice}, {reels, seed, stream, bound, chosen_only}};
  }));
}

TORCH_LIBRARY_FRAGMENT(loci, m) {
  define_operator(m, "reel_values(Tensor like, SymInt reels, int seed, int stream, float bound) -> Tensor",
                  reel_values_definition, not_differentiable());
  define_operator(m,
                  "reel_weights(Tensor scores, int seed, int stream, float bound, int draw, bool chosen_only) -> "
                  "(Tensor, Tensor)",
                  reel_weights_definition, reel_weights_autograd_entry);
  define_operator(m,
                  "reel_score_gradient(Tensor grad, Tensor choice, SymInt reels, int seed, int stream, float bound, "
                  "bool chosen_only) -> Tensor",
                  reel_score_gradient_definition, not_differentiable());
  define_operator(m,
                  "reel_step_(Tensor(a!) scores, Tensor(b!)? velocity, Tensor(c!) weight, Tensor(d!) choice, Tensor "
                  "grad, int seed, int stream, float bound, float rate, float momentum, float decay, float divisor, "
                  "bool nesterov, bool chosen_only, bool choose) -> ()",
                  reel_step_definition, torch::CppFunction::makeFallthrough());
}
TORCH_LIBRARY_IMPL(loci, ADInplaceOrView, m) {
  m.impl("reel_step_", moves_versions());
}

int64_t bits_of(uint64_t number) {
  return static_cast<int64_t>(number);
}

}  // namespace

Tensor reel_values(const Tensor& like, int64_t reels, const ReelSource& source) {
  return call_operator<"loci::reel_values", decltype(reel_values_definition)>(like, reels, bits_of(source.seed),
                                                                              bits_of(source.stream), source.bound);
}

Pair reel_weights(const Tensor& scores, const ReelSource& source, int64_t draw, bool chosen_only) {
  return call_reel_weights(scores, bits_of(source.seed), bits_of(source.stream), source.bound, draw, chosen_only);
}

Tensor reel_score_gradient(const Tensor& grad, const Tensor& choice, int64_t reels, const ReelSource& source,
                           bool chosen_only) {
  return call_score_gradient(grad, choice, reels, bits_of(source.seed), bits_of(source.stream), source.bound,
                             chosen_only);
}

void reel_step(const Tensor& scores, const Tensor& velocity, const Tensor& weight, const Tensor& choice,
               const Tensor& grad, const ReelSource& source, const ReelStep& step) {
  const auto given = velocity.defined() ? std::optional(velocity) : std::nullopt;
  call_operator<"loci::reel_step_", decltype(reel_step_definition)>(
      scores, given, weight, choice, grad, bits_of(source.seed), bits_of(source.stream), source.bound, step.rate,
      step.momentum, step.decay, step.divisor, step.nesterov, step.chosen_only, step.choose);
}

}  // namespace loci
