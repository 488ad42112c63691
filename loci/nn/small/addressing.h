// Content addressing: which of a few items a query means, and with what weights they are read. For memories of so few
// items that a full matrix of scores costs nothing; large ones are in nn/memory.
//
// Legend: Q queries, N items, D width of queries and keys, E that of keys where it is another, H inner width, K top_k;
// .. are any leading dimensions, which broadcast.
//
//   dot         s_n = q . k_n
//   scaled_dot  s_n = q . k_n / sqrt(D)
//   cosine      s_n = q . k_n / (|q| |k_n|)                        a vector of length 0 has cosine 0
//   additive    s_n = v . tanh(W q + U k_n)                        (Bahdanau, Cho and Bengio 2015, arXiv 1409.0473)
//
//   soft              w = softmax(s / temperature) over the valid items
//   top_k             the same over the K best of them
//   hard              w = 1 / K for the K best, without a gradient
//   straight_through  hard forward; backward the gradient of soft
//
// A read is `weights.matmul(values)`.
#pragma once

#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>

#include <cstdint>
#include <string>

#include "loci/base/config_fields.h"

namespace loci {

enum class AddressScore { dot, scaled_dot, cosine };

// query [.., Q, D], key [.., N, D] -> [.., Q, N].
at::Tensor address_scores(const at::Tensor& query, const at::Tensor& key, AddressScore kind);

class AdditiveScore : public torch::nn::Module {
 public:
  // Parameters come by counter from (seed, name, position): query_weight W, key_weight U and score_weight v are
  // N(0, 1 / inputs).
  AdditiveScore(const std::string& name, int64_t query_width, int64_t key_width, int64_t inner, uint64_t seed);
  // query [.., Q, D], key [.., N, E] -> [.., Q, N].
  at::Tensor forward(const at::Tensor& query, const at::Tensor& key) const;

  at::Tensor query_weight, key_weight, score_weight;  // [H, D], [H, E], [H]
};

enum class ReadMode { soft, top_k, hard, straight_through };

struct ReadOptions {
  ReadMode mode = ReadMode::soft;
  int64_t top_k = 1;       // not for soft
  double temperature = 1;  // not for hard
  // mode, top_k, temperature.
  void fields(ConfigFields& f);
};

// score [.., N] -> weights [.., N], which sum to 1; of equal scores the first is the better one. mask bool, of a shape
// that broadcasts to score's: false for items that are absent, whose scores never matter; undefined: all are there.
// Where none is there all weights are 0. With fewer than top_k items all are read.
at::Tensor read_weights(const at::Tensor& score, const at::Tensor& mask, const ReadOptions& options);

}  // namespace loci
