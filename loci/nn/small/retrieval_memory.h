// Retrieval memory (Gabriel, Bhagavatula, Shwartz, Le Bras, Forbes and Choi 2021, "Paragraph-level commonsense
// transformers with recurrent memory", arXiv 2010.01486): a few items of text beside a sequence, of which the best is
// added to the last hidden states. From the formulas; where it differs from the authors' code is said.
//
// Legend: B sequences, P positions, d width, M items of a sequence, L tokens of an item, V vocabulary, K top_k.
//
//   R               the memory's own embedding [V, d]
//   m_j             mean of R[ids] over the tokens of item j                    (theirs: over its padding too)
//   c               mean of the hidden states over the valid positions
//   s_j             cos(m_j, c)
//   w               weights of the K best items: 1 / K each                     (ops and modes: nn/small/addressing.h)
//   r               sum over j of w_j (sum over l of a_l R[ids_jl] + b)         one Linear(L -> 1) for all channels
//   H'              H + r at every position
//
// The paper's read is `hard`, whose choice has no gradient. Default: straight_through at temperature 0.1.
#pragma once

#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>

#include <cstdint>
#include <string>

#include "loci/nn/small/addressing.h"

namespace loci {

struct RetrievalMemoryOptions {
  int64_t vocabulary = 0;      // V
  int64_t width = 0;           // d
  int64_t length = 0;          // L
  int64_t padding = 0;         // the token that fills items up; an item of it alone is absent
  bool count_padding = false;  // true: padding is a token as any other in means and sums, as in the authors' code
  bool zero_start = false;     // true: a and b start at 0, so that H' is H until the memory has learned
  ReadOptions read = {.mode = ReadMode::straight_through, .top_k = 1, .temperature = 0.1};

  int64_t parameters() const { return vocabulary * width + length + 1; }
};

struct Retrieval {
  at::Tensor added;   // r [B, d]
  at::Tensor score;   // s [B, M], of absent items too
  at::Tensor weight;  // w [B, M]; 0 for absent items
};

class RetrievalMemory : public torch::nn::Module {
 public:
  // Parameters come by counter from (seed, name, position): R as N(0, 1 / d), a and b as U(-1 / sqrt(L), 1 / sqrt(L)).
  RetrievalMemory(const std::string& name, RetrievalMemoryOptions options, uint64_t seed);

  // hidden [B, P, d], items int64 [B, M, L] of 0 .. V-1, token_mask bool [B, P]: the positions that c is the mean of;
  // undefined: all. Without any item r is 0.
  Retrieval retrieve(const at::Tensor& hidden, const at::Tensor& items, const at::Tensor& token_mask = {}) const;
  // H' [B, P, d].
  at::Tensor forward(const at::Tensor& hidden, const at::Tensor& items, const at::Tensor& token_mask = {}) const;

  const RetrievalMemoryOptions& options() const { return options_; }

  at::Tensor embedding;              // R
  at::Tensor position_weight, bias;  // a [L], b [1]

 private:
  RetrievalMemoryOptions options_;
};

}  // namespace loci
