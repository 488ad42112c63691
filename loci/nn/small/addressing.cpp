// Legend: Q queries, N items, D width of queries, E of keys, H inner width, K top_k.
#include "loci/nn/small/addressing.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros_like.h>
#include <c10/util/Exception.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "loci/nn/initialise.h"

namespace loci {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

constexpr double kLeastCosineLength = 1e-8;  // that a cosine divides by

void check_pair(const char* who, const Tensor& query, const Tensor& key, int64_t query_width, int64_t key_width) {
  TORCH_CHECK(query.dim() >= 2 && key.dim() >= 2 && query.size(-1) == query_width && key.size(-1) == key_width &&
                  query.is_floating_point() && key.is_floating_point(),
              who, ": query and key must be [.., Q, ", query_width, "] and [.., N, ", key_width,
              "] of floating types, got ", query.sizes(), " of ", query.scalar_type(), " and ", key.sizes(), " of ",
              key.scalar_type());
}

Tensor unit_length(const Tensor& x) {
  return x / at::linalg_vector_norm(x, 2, {-1}, true).clamp_min(kLeastCosineLength);
}

// Of one value and with another's gradient.
struct StraightWeights : torch::autograd::Function<StraightWeights> {
  static Tensor forward(AutogradContext*, const Tensor& soft, const Tensor& hard) { return hard.view_as(soft); }
  static variable_list backward(AutogradContext*, const variable_list& grad) { return {grad[0], Tensor()}; }
};

// True for the K best items of score [.., N], in which absent ones are -inf; ties go to the first.
Tensor best_items(const Tensor& score, int64_t top_k) {
  const int64_t kept = std::min(top_k, score.size(-1));
  const Tensor order = std::get<1>(score.sort(/*stable=*/true, /*dim=*/-1, /*descending=*/true));
  return at::zeros_like(score, score.options().dtype(at::kBool)).scatter(-1, order.narrow(-1, 0, kept), true);
}

// Over the items where `read` is true; 0 where none is.
Tensor softmax_over(const Tensor& score, const Tensor& read, double temperature) {
  if (!read.defined()) return at::softmax(score / temperature, -1);
  const Tensor absent = read.logical_not();
  const Tensor finite = score.masked_fill(absent & read.any(-1, true), -std::numeric_limits<double>::infinity())
                            .masked_fill(read.any(-1, true).logical_not(), 0);
  return at::softmax(finite / temperature, -1).masked_fill(absent, 0);
}

}  // namespace

void ReadOptions::fields(ConfigFields& f) {
  f.choice("mode", mode, "how items are read; straight_through: hard, with the gradient of soft",
           {{"soft", ReadMode::soft},
            {"top_k", ReadMode::top_k},
            {"hard", ReadMode::hard},
            {"straight_through", ReadMode::straight_through}});
  f.when(mode != ReadMode::soft, "mode is not \"soft\"",
         [&] { f.field("top_k", top_k, "items that are read", {.minimum = 1, .maximum = 1 << 20}); });
  f.when(mode != ReadMode::hard, "mode is not \"hard\"",
         [&] { f.field("temperature", temperature, "of the softmax over scores", {.minimum = 1e-6, .maximum = 1e6}); });
}

Tensor address_scores(const Tensor& query, const Tensor& key, AddressScore kind) {
  const int64_t width = query.dim() > 0 ? query.size(-1) : 0;
  check_pair("address_scores", query, key, width, width);
  switch (kind) {
    case AddressScore::dot:
      break;
    case AddressScore::scaled_dot:
      return (query / std::sqrt(static_cast<double>(std::max<int64_t>(1, width)))).matmul(key.transpose(-1, -2));
    case AddressScore::cosine:
      return unit_length(query).matmul(unit_length(key).transpose(-1, -2));
  }
  return query.matmul(key.transpose(-1, -2));
}

AdditiveScore::AdditiveScore(const std::string& name, int64_t query_width, int64_t key_width, int64_t inner,
                             uint64_t seed)
    : Module("AdditiveScore") {
  TORCH_CHECK(query_width > 0 && key_width > 0 && inner > 0, name,
              ": query_width, key_width and inner must be at least 1, got ", query_width, ", ", key_width, " and ",
              inner);
  const auto start = [&](const char* which, at::IntArrayRef sizes) {
    return register_parameter(
        which, normal_start(seed, name + "." + which, sizes, 1 / std::sqrt(static_cast<double>(sizes.back()))));
  };
  query_weight = start("query_weight", {inner, query_width});
  key_weight = start("key_weight", {inner, key_width});
  score_weight = start("score_weight", {inner});
}

Tensor AdditiveScore::forward(const Tensor& query, const Tensor& key) const {
  check_pair("AdditiveScore", query, key, query_weight.size(1), key_weight.size(1));
  const Tensor of_query = at::linear(query, query_weight).unsqueeze(-2);  // [.., Q, 1, H]
  const Tensor of_key = at::linear(key, key_weight).unsqueeze(-3);        // [.., 1, N, H]
  return (of_query + of_key).tanh().matmul(score_weight.to(of_query.scalar_type()));
}

Tensor read_weights(const Tensor& score, const Tensor& mask, const ReadOptions& options) {
  TORCH_CHECK(score.dim() > 0 && score.is_floating_point(), "read_weights: score must be [.., N] of a floating type, ",
              "got ", score.sizes(), " of ", score.scalar_type());
  TORCH_CHECK(!mask.defined() || mask.scalar_type() == at::kBool, "read_weights: mask must be bool, got ",
              mask.scalar_type());
  TORCH_CHECK(options.top_k >= 1 && options.temperature > 0 && std::isfinite(options.temperature),
              "read_weights: top_k must be at least 1 and temperature a positive number, got ", options.top_k, " and ",
              options.temperature);
  const Tensor there = mask.defined() ? mask.expand(score.sizes()) : mask;
  if (score.size(-1) == 0) return at::zeros_like(score);
  if (options.mode == ReadMode::soft) return softmax_over(score, there, options.temperature);
  const double least = -std::numeric_limits<double>::infinity();
  const Tensor known = score.detach();
  Tensor best = best_items(there.defined() ? known.masked_fill(there.logical_not(), least) : known, options.top_k);
  if (there.defined()) best = best & there;
  if (options.mode == ReadMode::top_k) return softmax_over(score, best, options.temperature);
  const Tensor hard = best.to(score.scalar_type()) / best.sum(-1, true).clamp_min(1).to(score.scalar_type());
  if (options.mode == ReadMode::hard) return hard;
  return StraightWeights::apply(softmax_over(score, there, options.temperature), hard);
}

}  // namespace loci
