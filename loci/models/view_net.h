// One vector of length 1 for a thing of several views, by which related things find each other. A view is a vector of
// numbers, or a bag of rows of a table that all views share (hashed words).
//
// Legend: B batch, V views, X width of a view's input, L rows of a bag, D `width`, H `hidden`.
//
//   x_k = values of view k                       [B, X]; of a bag the sum of weight * row
//   u_k = W_2 relu(W_1 x_k + b_1) + b_2          [B, D], an MLP for each view
//   attention       nn/small/view_attention.h
//   mean            the sum of present u_k, or a learned default, at length 1
//   single          the same of one view alone
//   concatenation   an MLP V (D + 1) -> H -> D of all u_k (0 where absent) and of what is present, at length 1
//   score(a, b) = gain <a, b> + bias
#pragma once

#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "loci/base/config_fields.h"
#include "loci/models/trained_parameters.h"
#include "loci/nn/memory/query_net.h"
#include "loci/nn/small/view_attention.h"
#include "loci/table/table_maker.h"

namespace loci {

enum class ViewSum { attention, mean, concatenation, single };

// [model]
struct ViewNetOptions {
  ViewSum combine = ViewSum::attention;
  int64_t view = 0;  // of single
  int64_t width = 32;
  int64_t hidden = 64;
  int64_t attention_hidden = 32;
  int64_t rows = 1 << 16;  // of the table
  int64_t row_width = 64;
  int64_t views = 3;   // V; no field, as those that follow
  int64_t inputs = 0;  // X of values
  bool bags = false;   // X is row_width then
  void fields(ConfigFields& f);

  void check() const;  // throws Error (usage)
  int64_t input_width() const { return bags ? row_width : inputs; }
  int64_t parameters() const;     // without the table's
  int64_t multiply_adds() const;  // of one thing forward, without the sums of rows
  double kept_numbers() const;    // of one thing, for backward
};

// Of B things: values, or rows and weight.
struct ViewInput {
  at::Tensor values = {};             // [B, V, X]
  at::Tensor rows = {}, weight = {};  // [B, V, L] int64 and float32; weight 0 where there is no row
};

class ViewNet : public torch::nn::Module {
 public:
  ViewNet(const ViewNetOptions& options, uint64_t seed, const TableMaker& tables = make_local_table);

  // mask [B, V] bool -> [B, D], and the weight of each view [B, V]; undefined with concatenation.
  std::pair<at::Tensor, at::Tensor> encode(const ViewInput& input, const at::Tensor& mask) const;

  const PairScore& score() const { return *score_; }
  const ViewNetOptions& options() const { return options_; }
  std::vector<NamedParameter> dense_parameters() const { return trained_parameters(*this); }
  const TablePtr& table() const { return table_; }  // or null

 private:
  ViewNetOptions options_;
  TablePtr table_;
  int64_t use_ = 0;
  std::vector<std::shared_ptr<MlpQueryNet>> views_;
  std::shared_ptr<ViewAttention> attention_;  // one of three
  std::shared_ptr<MlpQueryNet> concatenation_;
  at::Tensor default_view_;  // [D]
  std::shared_ptr<PairScore> score_;
};

}  // namespace loci
