#include "loci/nn/memory/memory_formula.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/relu.h>
#include <ATen/ops/sigmoid.h>
#include <ATen/ops/silu.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/zeros.h>

#include "loci/nn/batch_norm_over_ranks.h"
#include "loci/ops/batch_norm/batch_norm.h"
#include "loci/ops/few_linear/few_linear.h"
#include "loci/ops/half_norm/half_norm.h"

namespace loci {
namespace {

using at::Tensor;

constexpr double kLeastLength = 1e-6;

// The mean of the batch, of which the running statistics take their share: [H, 2, w] in `type`.
Tensor batch_mean(const Tensor& q, const NormTensors& tensors, at::ScalarType type) {
  const at::NoGradGuard constant;
  const int64_t features = tensors.running_mean.numel();
  const auto options = q.options().dtype(type);
  const Tensor mean = at::zeros({features}, options), variance = at::ones({features}, options);
  // With momentum 1 the operator leaves the batch's own statistics, in the same bits for any number of threads.
  batch_norm(q.detach().reshape({q.size(0), features}), at::ones({features}, options), at::zeros({features}, options),
             mean, variance, /*training=*/true, /*momentum=*/1, kNormEpsilon);
  const auto move = [](const Tensor& running, const Tensor& batch) {
    running.mul_(1 - kNormMomentum).add_(batch.view_as(running).to(running.scalar_type()), kNormMomentum);
  };
  move(tensors.running_mean, mean);
  move(tensors.running_variance, variance);
  return mean.view_as(tensors.running_mean);
}

Tensor centred(const Tensor& q, const NormTensors& tensors, bool training) {
  const auto type = exact_type_of(q);
  const bool of_batch = training && q.size(0) >= 2;
  return q.to(type) - (of_batch ? batch_mean(q, tensors, type) : tensors.running_mean.to(type));
}

}  // namespace

const std::vector<std::pair<std::string, QueryNorm>>& query_norm_words() {
  static const std::vector<std::pair<std::string, QueryNorm>> words = {{"none", QueryNorm::none},
                                                                       {"layer", QueryNorm::layer},
                                                                       {"rms", QueryNorm::rms},
                                                                       {"batch", QueryNorm::batch},
                                                                       {"center", QueryNorm::center}};
  return words;
}

const std::vector<std::pair<std::string, WeightFunction>>& weight_function_words() {
  static const std::vector<std::pair<std::string, WeightFunction>> words = {
      {"softmax", WeightFunction::softmax}, {"relu", WeightFunction::relu}, {"sigmoid", WeightFunction::sigmoid}};
  return words;
}

std::string word_of(QueryNorm norm) {
  for (const auto& [word, known] : query_norm_words()) {
    if (known == norm) return word;
  }
  return "";
}

Tensor normalise_query(const Tensor& q, QueryNorm norm, const NormTensors& tensors, bool training) {
  if (norm == QueryNorm::batch) return batch_normalised(q, tensors, training);
  if (norm == QueryNorm::center) return centred(q, tensors, training);
  const Tensor exact = q.to(exact_type_of(q));
  const auto type = exact.scalar_type();
  switch (norm) {
    case QueryNorm::layer:
      return half_norm(exact, tensors.gain.to(type), tensors.bias.to(type), kNormEpsilon);
    case QueryNorm::rms:
      return half_norm(exact, tensors.gain.to(type), std::nullopt, kNormEpsilon);
    default:
      return exact;
  }
}

Tensor normalise_query_over_ranks(const Tensor& q, QueryNorm norm, const NormTensors& tensors,
                                  const RankMoments& moments, const Ranks& ranks) {
  if (norm == QueryNorm::batch) return batch_normalised_over_ranks(q, tensors, moments, ranks);
  if (moments.tokens < 2) return centred(q, tensors, /*training=*/false);
  move_running(tensors, moments);
  const auto type = exact_type_of(q);
  return q.to(type) - moments.mean.to(type).view_as(tensors.running_mean);
}

Tensor unit_vectors(const Tensor& x) {
  return x / at::linalg_vector_norm(x, 2, at::IntArrayRef{-1}, /*keepdim=*/true).clamp_min(kLeastLength);
}

Tensor weights_of(const Tensor& score, WeightFunction function) {
  switch (function) {
    case WeightFunction::softmax:
      return at::softmax(score, -1);
    case WeightFunction::relu:
      return at::relu(score);
    default:
      return at::sigmoid(score);
  }
}

Tensor map_output(const Tensor& y, const Tensor& x, OutputMap map, const OutputMapTensors& tensors) {
  if (map == OutputMap::none) return y;
  Tensor rows = as_parameter(y, tensors.weight);
  if (map == OutputMap::swilu) rows = rows * at::silu(linear_map(as_parameter(x, tensors.gate), tensors.gate));
  return linear_map(rows, tensors.weight, tensors.bias);
}

}  // namespace loci
