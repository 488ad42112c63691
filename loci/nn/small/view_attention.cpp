// Legend: B batch, V views, D width of a view, A width of the scores' hidden layer.
#include "loci/nn/small/view_attention.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/full.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/tanh.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <cmath>

#include "loci/base/random.h"
#include "loci/nn/batch_normalised.h"
#include "loci/nn/initialise.h"
#include "loci/nn/memory/memory_formula.h"
#include "loci/nn/small/addressing.h"
#include "loci/ops/few_linear/few_linear.h"

namespace loci {

using at::Tensor;

ViewAttention::ViewAttention(const std::string& name, int64_t width, int64_t hidden, uint64_t seed)
    : Module("ViewAttention") {
  TORCH_CHECK(width > 0 && hidden > 0, name, ": width and hidden must be at least 1, got ", width, " and ", hidden);
  const auto start = [&](const char* which, at::IntArrayRef sizes) {
    const double deviation = 1 / std::sqrt(static_cast<double>(sizes.back()));
    return register_parameter(which, normal_start(seed, name + "." + which, sizes, deviation));
  };
  inner_weight = start("inner_weight", {hidden, width});
  inner_bias = register_parameter("inner_bias", at::zeros({hidden}));
  score_weight = start("score_weight", {1, hidden});
  default_view = start("default_view", {width});
}

Tensor ViewAttention::forward(const Tensor& views, const Tensor& mask) const {
  return forward_with_weights(views, mask).first;
}

std::pair<Tensor, Tensor> ViewAttention::forward_with_weights(const Tensor& views, const Tensor& mask) const {
  const int64_t D = default_view.size(0);
  TORCH_CHECK(views.dim() == 3 && views.size(2) == D && views.is_floating_point(),
              "ViewAttention: views must be [B, V, ", D, "] of a floating type, got ", views.sizes(), " of ",
              views.scalar_type());
  const at::IntArrayRef sizes = views.sizes().slice(0, 2);
  TORCH_CHECK(!mask.defined() || (mask.scalar_type() == at::kBool && mask.sizes() == sizes),
              "ViewAttention: mask must be bool ", sizes, ", got ", mask.scalar_type(), " ", mask.sizes());
  const Tensor present = mask.defined() ? mask : at::ones(sizes, views.options().dtype(at::kBool));
  const Tensor u = as_parameter(at::where(present.unsqueeze(-1), views, 0), inner_weight);  // [B, V, D]
  const Tensor inner = at::tanh(linear_map(u, inner_weight, inner_bias));                   // [B, V, A]
  const Tensor score = linear_map(as_parameter(inner, score_weight), score_weight).squeeze(-1).to(u.scalar_type());
  const Tensor alpha = read_weights(score, present, {});  // [B, V]
  return {unit_sum(u, alpha, present, default_view).to(views.scalar_type()), alpha};
}

Tensor unit_sum(const Tensor& views, const Tensor& weight, const Tensor& mask, const Tensor& default_view) {
  const Tensor sum = (weight.unsqueeze(-1) * views).sum(1);  // [B, D]
  return unit_vectors(at::where(mask.any(1, /*keepdim=*/true), sum, default_view));
}

Tensor drop_views(const Tensor& mask, double share, uint64_t seed, std::string_view stream, int64_t first) {
  TORCH_CHECK(mask.dim() == 2 && mask.scalar_type() == at::kBool && mask.device().is_cpu(),
              "drop_views: mask must be bool [B, V] on the CPU, got ", mask.scalar_type(), " ", mask.sizes(), " on ",
              mask.device());
  TORCH_CHECK(share >= 0 && share <= 1, "drop_views: share must be from 0 to 1, got ", share);
  TORCH_CHECK(first >= 0, "drop_views: first must be at least 0, got ", first);
  const CounterRandom random(seed, stream);
  const Tensor present = mask.contiguous();
  Tensor kept = at::empty_like(present);
  const bool* in = present.const_data_ptr<bool>();
  bool* out = kept.mutable_data_ptr<bool>();
  for (int64_t i = 0; i < present.numel(); ++i) {
    out[i] = in[i] && random.uniform(static_cast<uint64_t>(first + i)) >= share;
  }
  return kept;
}

// For modules in Python, which leave out the same views.
TORCH_LIBRARY_FRAGMENT(loci, m) {
  m.def("drop_views(Tensor mask, float share, int seed, str stream, int first) -> Tensor",
        [](const Tensor& mask, double share, int64_t seed, const std::string& stream, int64_t first) {
          return drop_views(mask, share, static_cast<uint64_t>(seed), stream, first);
        });
}

PairScore::PairScore(double start) : Module("PairScore") {
  TORCH_CHECK(std::isfinite(start), "PairScore: gain must be a number, got ", start);
  gain = register_parameter("gain", at::full({1}, start, at::kFloat));
  bias = register_parameter("bias", at::zeros({1}));
}

Tensor PairScore::forward(const Tensor& a, const Tensor& b) const {
  TORCH_CHECK(a.dim() > 0 && a.sizes() == b.sizes(), "PairScore: a and b must be [.., D] of the same sizes, got ",
              a.sizes(), " and ", b.sizes());
  return gain * (a * b).sum(-1) + bias;
}

Tensor PairScore::all_pairs(const Tensor& a, const Tensor& b) const {
  TORCH_CHECK(a.dim() == 2 && b.dim() == 2 && a.size(1) == b.size(1),
              "PairScore: a and b must be [M, D] and [N, D], got ", a.sizes(), " and ", b.sizes());
  return gain * a.mm(b.t()) + bias;
}

}  // namespace loci
