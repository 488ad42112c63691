// What memories share: query net and norm, weights, the read of rows, the output map, padding, counters. A kind of
// memory adds its keys and how they are searched.
//
// Legend: T tokens (leading dimensions flattened), d width, H heads, K top_k, w width of half a query, R rows of the
// table, D their width.
#pragma once

#include <torch/nn/module.h>

#include <string>
#include <tuple>
#include <vector>

#include "loci/base/config_fields.h"
#include "loci/nn/block_context.h"
#include "loci/table/table.h"
#include "loci/table/usage.h"

namespace loci {

enum class QueryNorm { none, layer, rms, batch };
enum class WeightFunction { softmax, relu, sigmoid };
enum class OutputMap { none, projection, swilu };
enum class RowAddressing { mask, modulo };  // what becomes of addresses beyond the table's rows

struct ProductKeyMemoryOptions {
  int64_t width = 0;  // d; 0 in a model's configuration: the model's
  int64_t heads = 4;
  int64_t top_k = 32;
  int64_t key_width = 0;              // 2w, even; 0: width / 2 (rounded up to even), or width / heads without a net
  std::string query_net = "linear";   // "linear" | "mlp" | "none" (needs width = heads * key_width)
  std::vector<int64_t> query_hidden;  // hidden widths of "mlp"
  QueryNorm query_norm = QueryNorm::layer;
  bool normalise_keys = false;  // qk-norm: unit halves and keys, a learned temperature per head
  WeightFunction weight = WeightFunction::softmax;
  OutputMap output = OutputMap::none;  // none needs D = d
  RowAddressing addressing = RowAddressing::mask;
  int64_t row_offset = 0;  // row = (address + offset) mod R
  double input_dropout = 0;
  double query_dropout = 0;
  double output_dropout = 0;
  bool zero_output = false;  // projection, swilu: W_o starts at 0 (insertion into a trained model)
  void fields(ConfigFields& f);
};

// The width of a whole key, 2w, that these options mean for a layer of this width.
int64_t resolved_key_width(const ProductKeyMemoryOptions& options, int64_t width);

class MemoryLayer : public torch::nn::Module {
 public:
  // x [..., d] -> [..., d], in x's dtype. Rows are summed in float32 (float64 for a float64 table), autocast or not.
  at::Tensor forward(const at::Tensor& x, const BlockContext& context = {});

  // T: the tokens whose mask is true.
  struct Reads {
    at::Tensor output;  // [T, D] before the output map
    at::Tensor score;   // [T, H, K]
    at::Tensor index;   // [T, H, K] rows
    at::Tensor weight;  // [T, H, K]
  };
  Reads read_with_indices(const at::Tensor& x, const BlockContext& context = {});

  // norm(net(x)) for x [T, d]: [T, H, 2, w], float32 or float64.
  at::Tensor query(const at::Tensor& x);

  const ProductKeyMemoryOptions& options() const { return options_; }
  const TablePtr& table() const { return table_; }
  int64_t half_width() const { return options_.key_width / 2; }
  // Counters of the rows read: one in training (window of the log, staleness), one in evaluation.
  Usage& usage() { return is_training() ? training_usage_ : evaluation_usage_; }
  Usage& training_usage() { return training_usage_; }
  Usage& evaluation_usage() { return evaluation_usage_; }
  void set_count_usage(bool on) { count_usage_ = on; }
  bool count_usage() const { return count_usage_; }
  void set_step(int64_t step) { step_ = step; }  // dates the reads that are counted

  // Parameters, public as in the framework's modules (calibrate.h and importers write them). Undefined where the
  // options have no use for them.
  std::vector<at::Tensor>
      query_weight;  // linear layers of the net, last one [H * 2w, d]; feature order (head, half, w)
  std::vector<at::Tensor> query_bias;
  at::Tensor norm_gain, norm_bias;                     // [H, 2, w]
  at::Tensor running_mean, running_variance;           // batch norm, [H, 2, w]
  at::Tensor temperature;                              // [H], normalise_keys
  at::Tensor output_weight, output_bias, gate_weight;  // [d, D], [d], [D, d]

 protected:
  // `addresses`: how many a head can name. Throws Error (usage) for options that do not fit each other or the table.
  MemoryLayer(const std::string& who, const std::string& name, ProductKeyMemoryOptions options, TablePtr table,
              int64_t addresses, uint64_t seed);

  // query [T, H, 2, w] -> score, address [T, H, K]. Autocast is off.
  virtual std::tuple<at::Tensor, at::Tensor> search(const at::Tensor& query) = 0;
  // x [T, d], index, weight [T, H * K] -> [T, D]. Autocast is off.
  virtual at::Tensor read(const at::Tensor& x, const at::Tensor& index, const at::Tensor& weight);

  // keys [..., w] as they are, or of length 1 times the temperature of their head ([H, S, w] or [H, S, 2, w]).
  at::Tensor scaled_keys(const at::Tensor& keys) const;

 private:
  struct Tokens {
    at::Tensor x;          // [T, d] of valid tokens
    at::Tensor positions;  // [T] among all tokens; undefined: all are valid
  };
  Tokens valid_tokens(const at::Tensor& x, const BlockContext& context) const;
  Reads look_up(const at::Tensor& x, const BlockContext& context);
  void count(const Reads& reads);
  at::Tensor map_output(const at::Tensor& y, const at::Tensor& x) const;
  at::Tensor rows_of(const at::Tensor& address) const;
  at::Tensor drop(const at::Tensor& x, double share, const BlockContext& context) const;
  void start_query_net(const std::string& name, uint64_t seed);
  void start_output_map(const std::string& name, uint64_t seed);

  ProductKeyMemoryOptions options_;
  TablePtr table_;
  int64_t addresses_ = 0, use_ = 0, step_ = 0;
  bool count_usage_ = true;
  Usage training_usage_, evaluation_usage_;
};

}  // namespace loci
