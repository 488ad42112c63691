#include "loci/nn/memory/memory_layer.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>
#include <c10/core/impl/LocalDispatchKeySet.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <utility>

#include "loci/base/check.h"
#include "loci/nn/dropout.h"
#include "loci/nn/initialise.h"

namespace loci {
namespace {

using at::Tensor;

// Autocast would cast the matrix products inside the search to bfloat16: scores, weights and rows' sums are float32.
using AutocastOff = c10::impl::ExcludeDispatchKeyGuard;

void check_layer_options(const std::string& who, const MemoryLayerOptions& o, const Table& table, int64_t addresses,
                         bool own_net) {
  const auto refuse = [&](const std::string& expected, const std::string& got) {
    fail(ExitCode::usage, who, expected, got);
  };
  if (o.width < 1) refuse("width must be at least 1", std::to_string(o.width));
  if (o.heads < 1) refuse("heads must be at least 1", std::to_string(o.heads));
  if (o.key_width < 2 || o.key_width % 2 != 0) {
    refuse("key_width must be even and at least 2", std::to_string(o.key_width));
  }
  if (o.top_k < 1 || o.top_k > addresses) {
    refuse(fmt::format("top_k must be within 1 .. {} (the addresses)", addresses), std::to_string(o.top_k));
  }
  if (!own_net && !o.query_hidden.empty()) {
    refuse("query_hidden must be empty for a layer that is given a query net",
           fmt::format("{} hidden widths", o.query_hidden.size()));
  }
  for (const int64_t hidden : o.query_hidden) {
    if (hidden < 1) refuse("query_hidden must be at least 1", std::to_string(hidden));
  }
  if (o.output == OutputMap::none && table.width() != o.width) {
    refuse(fmt::format("the table's width must be {} (the layer's) without an output map", o.width),
           std::to_string(table.width()));
  }
  if (o.row_offset < 0) refuse("row_offset must be at least 0", std::to_string(o.row_offset));
  for (const double share : {o.input_dropout, o.query_dropout, o.output_dropout}) {
    if (!(share >= 0 && share < 1)) refuse("dropout must be at least 0 and below 1", std::to_string(share));
  }
}

// d, the hidden widths, H * 2w.
std::vector<int64_t> net_widths(const MemoryLayerOptions& options) {
  std::vector<int64_t> widths = {options.width};
  widths.insert(widths.end(), options.query_hidden.begin(), options.query_hidden.end());
  widths.push_back(options.heads * options.key_width);
  return widths;
}

}  // namespace

void MemoryLayerOptions::fields(ConfigFields& f) {
  constexpr int64_t most = 1 << 20;
  f.field("width", width, "width of the inputs; 0: the model's", {.minimum = 0, .maximum = most});
  f.field("heads", heads, "independent searches of a token", {.minimum = 1, .maximum = most});
  f.field("top_k", top_k, "rows that a head reads", {.minimum = 1, .maximum = most});
  f.field("key_width", key_width, "width of a whole key, even; 0: half of the layer's width",
          {.minimum = 0, .maximum = most});
  f.field("query_hidden", query_hidden, "widths of the hidden layers of the query net; none: one linear map",
          {.minimum = 1, .maximum = most});
  f.choice(
      "query_norm", query_norm, "normalisation of the queries",
      {{"none", QueryNorm::none}, {"layer", QueryNorm::layer}, {"rms", QueryNorm::rms}, {"batch", QueryNorm::batch}});
  f.field("normalise_keys", normalise_keys, "unit queries and keys with a learned temperature for each head");
  f.choice(
      "weight", weight, "scores to weights",
      {{"softmax", WeightFunction::softmax}, {"relu", WeightFunction::relu}, {"sigmoid", WeightFunction::sigmoid}});
  f.choice("output", output, "map from the sum of rows to the model's width",
           {{"none", OutputMap::none}, {"projection", OutputMap::projection}, {"swilu", OutputMap::swilu}});
  f.field("row_offset", row_offset, "added to every address before it is wrapped around", {.minimum = 0});
  f.field("input_dropout", input_dropout, "dropout of the layer's inputs", {.minimum = 0, .maximum = 1});
  f.field("query_dropout", query_dropout, "dropout of the queries", {.minimum = 0, .maximum = 1});
  f.field("output_dropout", output_dropout, "dropout of the layer's outputs", {.minimum = 0, .maximum = 1});
}

int64_t resolved_key_width(const MemoryLayerOptions& options, int64_t width) {
  return options.key_width != 0 ? options.key_width : std::max<int64_t>(2, (width / 2 + 1) / 2 * 2);
}

MemoryLayer::MemoryLayer(const std::string& who, const std::string& name, MemoryLayerOptions options, TablePtr table,
                         int64_t addresses, uint64_t seed, std::shared_ptr<QueryNet> given_net)
    : TableLayer(who),
      query_net(std::move(given_net)),
      options_(std::move(options)),
      table_(std::move(table)),
      addresses_(addresses) {
  options_.key_width = resolved_key_width(options_, options_.width);
  check_layer_options(who, options_, *table_, addresses_, /*own_net=*/query_net == nullptr);
  if (options_.top_k == 1 && options_.weight == WeightFunction::softmax) {
    fmt::print(stderr,
               "{} {}: top_k = 1 with softmax gives the constant weight 1: keys and query net get no gradient\n", who,
               name);
  }
  use_ = table_->register_use();
  if (!query_net) {
    const bool train_last_bias = options_.query_norm != QueryNorm::batch;
    query_net = std::make_shared<MlpQueryNet>(name, net_widths(options_), train_last_bias, seed);
  }
  register_module("query_net", query_net);
  register_norm();
  register_output_map(name, seed);
}

void MemoryLayer::register_norm() {
  const std::vector<int64_t> features = {options_.heads, 2, half_width()};
  if (options_.query_norm != QueryNorm::none) norm.gain = register_parameter("norm_gain", at::ones(features));
  if (options_.query_norm == QueryNorm::layer || options_.query_norm == QueryNorm::batch) {
    norm.bias = register_parameter("norm_bias", at::zeros(features));
  }
  if (options_.query_norm == QueryNorm::batch) {
    norm.running_mean = register_buffer("running_mean", at::zeros(features));
    norm.running_variance = register_buffer("running_variance", at::ones(features));
  }
  if (options_.normalise_keys) {
    // The spread of sub-scores at the default start of the keys is 0.577 for any width; unit vectors give w^-1/2.
    const double spread = std::sqrt(static_cast<double>(half_width()) / 3);
    temperature = register_parameter("temperature", at::ones({options_.heads}) * spread);
  }
}

void MemoryLayer::register_output_map(const std::string& name, uint64_t seed) {
  if (options_.output == OutputMap::none) return;
  const int64_t d = options_.width, D = table_->width();
  const double std = 1 / std::sqrt(static_cast<double>(d));
  output_map.weight = register_parameter("output_weight", normal_start(seed, name + ".output_weight", {d, D}, std));
  output_map.bias = register_parameter("output_bias", at::zeros({d}));
  if (options_.output == OutputMap::swilu) {
    output_map.gate = register_parameter("gate_weight", normal_start(seed, name + ".gate_weight", {D, d}, std));
  }
}

void MemoryLayer::zero_output_map() {
  if (options_.output == OutputMap::none) {
    fail(ExitCode::usage, name(), "output must be projection or swilu for a zero output map", "none");
  }
  const at::NoGradGuard guard;
  output_map.weight.zero_();
}

Tensor MemoryLayer::flattened(const Tensor& x) const {
  TORCH_CHECK(x.dim() >= 1 && x.size(-1) == options_.width, name(), ": x must be [..., ", options_.width, "], got ",
              x.sizes());
  TORCH_CHECK(x.is_floating_point(), name(), ": x must be of a floating type, got ", x.scalar_type());
  return x.reshape({x.numel() / options_.width, options_.width});
}

Tensor MemoryLayer::forward(const Tensor& x, const BlockContext& context) {
  const Tensor flat = flattened(x);
  const Tensor positions = valid_positions(flat.size(0), context);
  const Tensor input = dropout(take_tokens(flat, positions), options_.input_dropout, is_training(), context);
  const Tensor rows = look_up(input, context).output;
  Tensor y = map_output(rows, input, options_.output, output_map).to(x.scalar_type());
  y = dropout(y, options_.output_dropout, is_training(), context);
  return put_tokens(y, positions, flat.size(0)).view(x.sizes());
}

MemoryReads MemoryLayer::read_with_indices(const Tensor& x, const BlockContext& context) {
  const Tensor flat = flattened(x), valid = take_tokens(flat, valid_positions(flat.size(0), context));
  return look_up(dropout(valid, options_.input_dropout, is_training(), context), context);
}

Tensor MemoryLayer::query(const Tensor& x) {
  const int64_t tokens = x.size(0), features = options_.heads * options_.key_width;
  const Tensor q = query_net->forward(x);
  TORCH_CHECK(q.dim() == 2 && q.size(0) == tokens && q.size(1) == features, name(), ": the query net must give [",
              tokens, ", ", features, "] (heads * key_width), got ", q.sizes());
  const AutocastOff guard(c10::autocast_dispatch_keyset);
  return normalise_query(q.view({tokens, options_.heads, 2, half_width()}), options_.query_norm, norm, is_training());
}

MemoryReads MemoryLayer::look_up(const Tensor& x, const BlockContext& context) {
  Tensor q = dropout(query(x), options_.query_dropout, is_training(), context);
  const AutocastOff guard(c10::autocast_dispatch_keyset);
  if (options_.normalise_keys) q = unit_vectors(q);
  const auto [score, address] = search(q);
  const Tensor weight = weights_of(score, options_.weight).to(table_->sum_dtype());
  const Tensor index = rows_of(address);
  for (const TablePtr& table : tables()) table->prefetch(index);
  const int64_t tokens = x.size(0), count = options_.heads * options_.top_k;
  const Tensor output = read(x, index.view({tokens, count}), weight.view({tokens, count}));
  const MemoryReads reads = {output, score, index, weight};
  tell_observers(reads);
  return reads;
}

Tensor MemoryLayer::read(const Tensor&, const Tensor& index, const Tensor& weight) {
  return table_->read(index, weight, use_);
}

Tensor MemoryLayer::scaled_keys(const Tensor& keys, at::ScalarType type) const {
  const Tensor exact = keys.to(type);
  if (!options_.normalise_keys) return exact;
  std::vector<int64_t> per_head(static_cast<size_t>(keys.dim()), 1);
  per_head[0] = options_.heads;
  return unit_vectors(exact) * temperature.to(type).view(per_head);
}

Tensor MemoryLayer::rows_of(const Tensor& address) const {
  const Tensor moved = options_.row_offset == 0 ? address : address + options_.row_offset;
  return options_.row_offset == 0 && addresses_ <= table_->rows() ? moved : moved.remainder(table_->rows());
}

}  // namespace loci
