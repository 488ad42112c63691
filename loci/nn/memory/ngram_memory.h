// N-gram memory: rows that the last tokens name, without a search. What a layer reads is known before the forward pass.
//
// Legend: B batch, L positions, T tokens (B * L), V vocabulary, d width, n largest order, K columns (pairs of an order
// and a hash head), D width of a row.
//
//   row(j) = the row of column j for the last 1 .. n tokens (ngram_rows.h, ops/ngram_hash)             [B, L, K]
//
//   sum    y = sum over j of table[row(j)]                                                D = d        [B, L, d]
//   gate   e = table[row(1)], ..., table[row(K)] one after the other                                   [B, L, K * D]
//          k = W_K e, v = W_V e                                                                        [B, L, d]
//          s = <rms(x) * w_x, rms(k) * w_k> / sqrt(d)
//          u = sigmoid(sign(s) * sqrt(max(|s|, 1e-6))) * v
//          y = u, or with a convolution u + silu(c(rms(u) * w_c)), where c is causal and by channel, of kernel 4 and
//          dilation n:  c(a)[l] = sum over i = 0 .. 3 of w[i] * a[l - i * n]
//   row    y = W_O (gelu(W_G x) * table[row(1)])                                          order 1      [B, L, d]
//
// `gate` is Engram (Cheng et al. 2026, "Conditional memory via scalable lookup"), `row` is STEM (2026, "Scaling
// transformers with embedding modules") and the per-layer embeddings of Gemma 3n (2025), `sum` is the form of the speed
// records of small models. Rows that are zero, and the convolution's zero start, make y = 0: a layer with them can be
// inserted into a trained model. Rows learn from the first step on, the maps from the second.
#pragma once

#include <torch/nn/modules/common.h>
#include <torch/nn/modules/container/any_value.h>

#include <string>
#include <vector>

#include "loci/base/config_fields.h"
#include "loci/nn/block_context.h"
#include "loci/nn/memory/ngram_rows.h"
#include "loci/nn/memory/table_layer.h"

namespace loci {

enum class NgramInjection { sum, gate, row };

struct NgramMemoryOptions {
  int64_t width = 0;  // d; 0 in a model's configuration: the model's
  NgramInjection injection = NgramInjection::sum;
  std::vector<int64_t> orders = {1, 2, 3};
  int64_t hash_heads = 1;    // of each order
  bool convolution = false;  // of gate
  void fields(ConfigFields& f);
};

class NgramMemory : public TableLayer {
 public:
  static constexpr int64_t kTaps = 4;  // kernel of the convolution

  // Draws its parameters and multipliers by counter from (seed, `name`); the table's rows are as they are. Throws Error
  // (usage) for options that do not fit each other, the table or the vocabulary.
  NgramMemory(const std::string& name, NgramMemoryOptions options, TablePtr table, int64_t vocabulary, uint64_t seed);

  // tokens [B, L], starts [B, L] bool (true: begins a document) -> rows [B, L, K]: a pure function of them.
  at::Tensor rows(const at::Tensor& tokens, const at::Tensor& starts) const { return rows_.of(tokens, starts); }
  // x [B, L, d], rows [B, L, K] -> y [B, L, d] in x's dtype. Rows are read in float32 (float64 for a float64 table).
  // Observers are told one head of K rows with score and weight 1, and what was read: [T, D], of gate [T, K * D].
  // `history`: for generation; what the convolution needs of the positions before, kept from call to call. Undefined at
  // first.
  at::Tensor forward(const at::Tensor& x, const at::Tensor& rows, const BlockContext& context = {},
                     at::Tensor* history = nullptr);

  const NgramMemoryOptions& options() const { return options_; }
  const NgramRows& addresses() const { return rows_; }
  const TablePtr& table() const { return table_; }
  int64_t columns() const { return static_cast<int64_t>(rows_.orders.size()); }  // K

  // Parameters; undefined where the injection has no use for them.
  at::Tensor key_weight, value_weight;              // W_K, W_V [d, K * D]
  at::Tensor input_gain, key_gain;                  // w_x, w_k [d]
  at::Tensor convolution_gain, convolution_weight;  // w_c [d], w [d, 1, 4]
  at::Tensor gate_weight, output_weight;            // W_G [D, d], W_O [d, D]

 protected:
  std::vector<TablePtr> tables() const override { return {table_}; }

  FORWARD_HAS_DEFAULT_ARGS({2, torch::nn::AnyValue(BlockContext())},
                           {3, torch::nn::AnyValue(static_cast<at::Tensor*>(nullptr))})

 private:
  at::Tensor read(const at::Tensor& index);                                // [T, K] -> [T, D] or [T, K * D]
  at::Tensor injected(const at::Tensor& x, const at::Tensor& read) const;  // [T, d]
  at::Tensor gated(const at::Tensor& x, const at::Tensor& read) const;     // [T, d]
  at::Tensor convolved(const at::Tensor& u, at::Tensor* history) const;    // [B, L, d]

  NgramMemoryOptions options_;
  TablePtr table_;
  NgramRows rows_;
  int64_t use_ = 0;
};

}  // namespace loci
