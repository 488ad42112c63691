// Product-key memory (Lample et al. 2019, "Large Memory Layers with Product Keys").
//
// Legend: T tokens (leading dimensions flattened), d width, H heads, K top_k, w half a key's width, n1, n2 sub-keys,
// R rows of the table, D value width.
//
//   q = norm(net(x))                                 [T, H, 2, w]
//   score, address = product_key_search(q, keys1, keys2, K)   [T, H, K]
//   weight = softmax over K, per head, in float32    [T, H, K]
//   y = sum over h, r of weight * table[row(address)]          [T, D]   heads are summed
//   output = map(y)                                  [T, d]
//
// The table is the user's object; layers that share it own their query nets and keys. Formulas and defaults:
// docs/product-key-memory.md.
#pragma once

#include <torch/nn/module.h>

#include <string>
#include <vector>

#include "loci/base/config.h"
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
  int64_t key_width = 0;                // 2w, even; 0: width / 2 (rounded up to even)
  std::string query_net = "linear";     // "linear" | "mlp" | "none" (needs width = heads * key_width)
  std::vector<int64_t> query_hidden;    // hidden widths of "mlp"
  QueryNorm query_norm = QueryNorm::layer;
  bool normalise_keys = false;          // qk-norm: unit halves and keys, a learned temperature per head
  WeightFunction weight = WeightFunction::softmax;
  OutputMap output = OutputMap::none;   // none needs D = d
  RowAddressing addressing = RowAddressing::mask;
  int64_t row_offset = 0;               // row = (address + offset) mod R
  double input_dropout = 0;
  double query_dropout = 0;
  double output_dropout = 0;
  bool zero_output = false;             // projection, swilu: W_o starts at 0 (insertion into a trained model)
  void fields(ConfigFields& f);
};

class ProductKeyMemory : public torch::nn::Module {
 public:
  // Draws its parameters by counter from (seed, `name`, tensor, position). Throws Error (usage) for options that do not
  // fit each other or the table; warns on stderr for top_k = 1 with softmax (keys and query net would get no gradient).
  ProductKeyMemory(const std::string& name, ProductKeyMemoryOptions options, TablePtr table, uint64_t seed);

  // x [..., d] -> [..., d]
  at::Tensor forward(const at::Tensor& x, const BlockContext& context = {});

  struct Reads {
    at::Tensor output;  // [T, D] before the output map
    at::Tensor score;   // [T, H, K]
    at::Tensor index;   // [T, H, K] rows
    at::Tensor weight;  // [T, H, K]
  };
  Reads read_with_indices(const at::Tensor& x, const BlockContext& context = {});

  const ProductKeyMemoryOptions& options() const { return options_; }
  const TablePtr& table() const { return table_; }
  int64_t sub_keys1() const { return n1_; }
  int64_t sub_keys2() const { return n2_; }
  // Counters of the rows read: one in training (window of the log, staleness), one in evaluation.
  Usage& usage() { return is_training() ? training_usage_ : evaluation_usage_; }
  Usage& training_usage() { return training_usage_; }
  Usage& evaluation_usage() { return evaluation_usage_; }
  void set_count_usage(bool on) { count_usage_ = on; }

  // Parameters, public as in the framework's modules (calibrate.h and importers write them).
  std::vector<at::Tensor> query_weight;  // linear layers of the net, last one [H * 2w, d]; feature order (head, half, w)
  std::vector<at::Tensor> query_bias;
  at::Tensor norm_gain, norm_bias;               // [H, 2, w]
  at::Tensor running_mean, running_variance;     // batch norm, [H, 2, w]
  at::Tensor keys1, keys2;                       // [H, n1, w], [H, n2, w]
  at::Tensor temperature;                        // [H], normalise_keys
  at::Tensor output_weight, output_bias, gate_weight;  // [d, D], [d], [D, d]

 private:
  at::Tensor query(const at::Tensor& x, const at::Tensor& mask);  // [T, H, 2, w]

  ProductKeyMemoryOptions options_;
  TablePtr table_;
  int64_t n1_ = 0, n2_ = 0, use_ = 0, step_ = 0;
  bool count_usage_ = true;
  Usage training_usage_, evaluation_usage_;
};

}  // namespace loci
