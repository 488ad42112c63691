// What searched memories share: query net and norm, weights, the read of rows, the output map. A kind of memory adds
// its keys and how they are searched.
//
// Legend: T tokens (leading dimensions flattened), d width, H heads, K top_k, w width of half a query, R rows of the
// table, D their width.
//
//   q = normalise_query(query_net(x))                       [T, H, 2, w]
//   score, address = search(q)                              [T, H, K]      the kind's
//   weight = weights_of(score)                              [T, H, K]
//   output = map_output(sum of weight * row(address), x)    [T, d]
#pragma once

#include <torch/nn/modules/common.h>
#include <torch/nn/modules/container/any_value.h>

#include <memory>
#include <string>
#include <tuple>
#include <vector>

#include "loci/base/config_fields.h"
#include "loci/distributed/collectives.h"
#include "loci/nn/block_context.h"
#include "loci/nn/memory/memory_formula.h"
#include "loci/nn/memory/query_net.h"
#include "loci/nn/memory/table_layer.h"

namespace loci {

struct MemoryLayerOptions {
  int64_t width = 0;  // d; 0 in a model's configuration: the model's
  int64_t heads = 4;
  int64_t top_k = 32;
  int64_t key_width = 0;              // 2w, even; 0: width / 2, rounded up to even
  std::vector<int64_t> query_hidden;  // hidden widths of the query net; none: one linear map
  QueryNorm query_norm = QueryNorm::layer;
  bool normalise_keys = false;  // qk-norm: unit halves and keys, a learned temperature per head
  WeightFunction weight = WeightFunction::softmax;
  OutputMap output = OutputMap::none;  // none: the output has the table's width D
  int64_t row_offset = 0;              // row = (address + offset) mod R: rotates a shared table for each layer
  double input_dropout = 0;
  double query_dropout = 0;
  double output_dropout = 0;
  void fields(ConfigFields& f);
};

// The width of a whole key, 2w, that these options mean for a layer of this width.
int64_t resolved_key_width(const MemoryLayerOptions& options, int64_t width);

class MemoryLayer : public TableLayer {
 public:
  // x [..., d] -> [..., d] ([..., D] without an output map), in x's dtype, whatever the types of parameters and table.
  // Rows are summed in float32 (float64 for a float64 table), autocast or not.
  at::Tensor forward(const at::Tensor& x, const BlockContext& context = {});
  // What forward() reads, before the output map.
  MemoryReads read_with_indices(const at::Tensor& x, const BlockContext& context = {});
  // The normalised queries of x [..., d]: [T, H, 2, w], float32 or float64.
  at::Tensor query(const at::Tensor& x);

  // Of query norm batch or center, in the last training step: how far the batch's mean was from the running one, which
  // stands for it in evaluation. Root mean square over the features, in running standard deviations; NaN before.
  double mean_distance() const;

  const MemoryLayerOptions& options() const { return options_; }
  const TablePtr& table() const { return table_; }
  int64_t half_width() const { return options_.key_width / 2; }
  // The output map's weight becomes 0, so that the layer adds nothing at first (insertion into a trained model).
  void zero_output_map();

  // In training with query norm batch or center the statistics of queries are those of the tokens of all ranks. Then
  // every rank calls forward(), read_with_indices() and query() together, and backward, also without tokens.
  void set_ranks(const Ranks& ranks) { ranks_ = ranks; }

  // Parameters, public as in the framework's modules (calibrate.h and importers write them). Undefined where the
  // options have no use for them.
  std::shared_ptr<QueryNet> query_net;
  NormTensors norm;
  at::Tensor temperature;  // [H], normalise_keys
  OutputMapTensors output_map;

 protected:
  // `addresses`: how many a head can name. Without a query net it makes an MlpQueryNet of the options. Throws Error
  // (usage) for options that do not fit each other, the table or the net.
  MemoryLayer(const std::string& who, const std::string& name, MemoryLayerOptions options, TablePtr table,
              int64_t addresses, uint64_t seed, std::shared_ptr<QueryNet> query_net);

  // query [T, H, 2, w] -> score, address [T, H, K]. Autocast is off.
  virtual std::tuple<at::Tensor, at::Tensor> search(const at::Tensor& query) = 0;
  // x [T, d], index, weight [T, H * K] -> [T, D]. Autocast is off.
  virtual at::Tensor read(const at::Tensor& x, const at::Tensor& index, const at::Tensor& weight);

  std::vector<TablePtr> tables() const override { return {table_}; }

  // keys [..., w] in `type`, as they are or of length 1 times the temperature of their head ([H, S, w], [H, S, 2, w]).
  at::Tensor scaled_keys(const at::Tensor& keys, at::ScalarType type) const;

  FORWARD_HAS_DEFAULT_ARGS({1, torch::nn::AnyValue(BlockContext())})

 private:
  // The tokens that count, T' of T.
  struct Tokens {
    at::Tensor x;          // [T', d] after dropout
    at::Tensor query;      // [T', H * 2w] as the query net gives them
    at::Tensor positions;  // [T'], undefined: all
    int64_t all;           // T
  };
  Tokens tokens_of(const at::Tensor& x, const BlockContext& context);
  at::Tensor normalised(const at::Tensor& query, int64_t tokens);  // [tokens, H, 2, w]
  MemoryReads look_up(const Tokens& tokens, const BlockContext& context);
  at::Tensor rows_of(const at::Tensor& address) const;
  void register_norm();
  void register_output_map(const std::string& name, uint64_t seed);

  MemoryLayerOptions options_;
  TablePtr table_;
  Ranks ranks_;
  int64_t addresses_ = 0, use_ = 0;
  at::Tensor mean_shift_;  // [H, 2, w], what mean_distance() is of
};

// MemoryLayer::set_ranks() of every memory within `module`. Norms of other layers stay those of this process.
void set_ranks(torch::nn::Module& module, const Ranks& ranks);

}  // namespace loci
