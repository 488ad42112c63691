// The formula of a memory as plain functions: normalised queries, weights, output map.
//
// Legend: T tokens, d width, H heads, K top_k, w width of half a query, D width of a row.
//
//   q = normalise_query(net(x))            [T, H, 2, w]
//   weight = weights_of(score)             [T, H, K]
//   output = map_output(sum of rows, x)    [T, d]
#pragma once

#include <ATen/core/Tensor.h>

#include <string>
#include <utility>
#include <vector>

#include "loci/nn/batch_normalised.h"

namespace loci {

struct RankMoments;  // batch_norm_over_ranks.h
struct Ranks;

enum class QueryNorm { none, layer, rms, batch, center };
// Whether a constant that is added to all queries has an effect: batch and center subtract it again.
constexpr bool keeps_constant(QueryNorm norm) {
  return norm != QueryNorm::batch && norm != QueryNorm::center;
}
constexpr bool has_gain(QueryNorm norm) {
  return norm != QueryNorm::none && norm != QueryNorm::center;
}
constexpr bool has_bias(QueryNorm norm) {
  return norm == QueryNorm::layer || norm == QueryNorm::batch;
}
// The norms with the words that configurations and messages call them by.
const std::vector<std::pair<std::string, QueryNorm>>& query_norm_words();
std::string word_of(QueryNorm norm);

enum class WeightFunction { softmax, relu, sigmoid };
const std::vector<std::pair<std::string, WeightFunction>>& weight_function_words();
enum class OutputMap { none, projection, swilu };

// q [T, H, 2, w] in float32, float64 or (for batch and center) bfloat16 -> the same in float32 or float64. `layer` and
// `rms` are over each half; `batch` and `center` are over the tokens in training, and move the running statistics,
// which stand for them in evaluation and where a batch has one token. `center` takes the mean away and nothing else;
// the mean is a constant in backward. The tensors of the norm may be of another floating type: they are taken in q's.
at::Tensor normalise_query(const at::Tensor& q, QueryNorm norm, const NormTensors& tensors, bool training);

// The same for batch and center in training, where each rank has a slice of the tokens: over the tokens of all ranks,
// of which `moments` are.
at::Tensor normalise_query_over_ranks(const at::Tensor& q, QueryNorm norm, const NormTensors& tensors,
                                      const RankMoments& moments, const Ranks& ranks);

// x / |x| over the last dimension; a length below 1e-6 counts as 1e-6.
at::Tensor unit_vectors(const at::Tensor& x);

// score [T, H, K] -> [T, H, K]: softmax over K, or relu or sigmoid of each.
at::Tensor weights_of(const at::Tensor& score, WeightFunction function);

// Undefined where the map has no use for them.
struct OutputMapTensors {
  at::Tensor weight, bias;  // [d, D], [d]
  at::Tensor gate;          // [D, d], of swilu
};

// y [T, D], x [T, d] -> [T, d]:
//   none        y
//   projection  W y + b
//   swilu       W (y * silu(G x)) + b
// y and x are taken in the type of the map's parameters; under autocast the framework chooses.
at::Tensor map_output(const at::Tensor& y, const at::Tensor& x, OutputMap map, const OutputMapTensors& tensors);

}  // namespace loci
