#include "loci/nn/memory/memory_layer.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>
#include <c10/core/impl/LocalDispatchKeySet.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>
#include <utility>

#include "loci/base/check.h"
#include "loci/nn/batch_norm_over_ranks.h"
#include "loci/nn/dropout.h"
#include "loci/nn/initialise.h"
#include "loci/nn/token_mask.h"

namespace loci {
namespace {

using at::Tensor;

// Autocast would cast the matrix products inside the search to bfloat16: scores, weights and rows' sums are float32.
using AutocastOff = c10::impl::ExcludeDispatchKeyGuard;

void check_layer_options(const std::string& who, const MemoryLayerOptions& o, int64_t addresses, bool own_net) {
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
  f.choice("query_norm", query_norm, "normalisation of the queries", query_norm_words());
  f.field("normalise_keys", normalise_keys, "unit queries and keys with a learned temperature for each head");
  f.choice("weight", weight, "scores to weights", weight_function_words());
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
  check_layer_options(who, options_, addresses_, /*own_net=*/query_net == nullptr);
  if (options_.top_k == 1 && options_.weight == WeightFunction::softmax) {
    fmt::print(stderr,
               "{} {}: top_k = 1 with softmax gives the constant weight 1: keys and query net get no gradient\n", who,
               name);
  }
  use_ = table_->register_use();
  if (!query_net) {
    const bool train_last_bias = keeps_constant(options_.query_norm);
    query_net = std::make_shared<MlpQueryNet>(name, net_widths(options_), train_last_bias, seed);
  }
  register_module("query_net", query_net);
  register_norm();
  register_output_map(name, seed);
}

void MemoryLayer::register_norm() {
  const std::vector<int64_t> features = {options_.heads, 2, half_width()};
  const QueryNorm kind = options_.query_norm;
  if (has_gain(kind)) norm.gain = register_parameter("norm_gain", at::ones(features));
  if (has_bias(kind)) norm.bias = register_parameter("norm_bias", at::zeros(features));
  if (!keeps_constant(kind)) {
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

MemoryLayer::Tokens MemoryLayer::tokens_of(const Tensor& x, const BlockContext& context) {
  TORCH_CHECK(x.dim() >= 1 && x.size(-1) == options_.width, name(), ": x must be [..., ", options_.width, "], got ",
              x.sizes());
  TORCH_CHECK(x.is_floating_point(), name(), ": x must be of a floating type, got ", x.scalar_type());
  const int64_t all = x.numel() / options_.width;
  const Tensor positions = valid_positions(name(), all, context);
  const Tensor input = dropout(x.contiguous(), options_.input_dropout, is_training(), context);
  return {take_tokens(input.view({all, options_.width}), positions), query_net->at_positions(input, positions),
          positions, all};
}

Tensor MemoryLayer::forward(const Tensor& x, const BlockContext& context) {
  const Tokens tokens = tokens_of(x, context);
  const Tensor rows = look_up(tokens, context).output;
  Tensor y = map_output(rows, tokens.x, options_.output, output_map).to(x.scalar_type());
  y = dropout(y, options_.output_dropout, is_training(), context);
  std::vector<int64_t> sizes = x.sizes().vec();
  sizes.back() = y.size(1);
  return put_tokens(y, tokens.positions, tokens.all).view(sizes);
}

MemoryReads MemoryLayer::read_with_indices(const Tensor& x, const BlockContext& context) {
  return look_up(tokens_of(x, context), context);
}

Tensor MemoryLayer::query(const Tensor& x) {
  return normalised(query_net->at_positions(x, {}), x.numel() / x.size(-1));
}

Tensor MemoryLayer::normalised(const Tensor& query, int64_t tokens) {
  const int64_t features = options_.heads * options_.key_width;
  TORCH_CHECK(query.dim() == 2 && query.size(0) == tokens && query.size(1) == features, name(),
              ": the query net must give [", tokens, ", ", features, "] (heads * key_width), got ", query.sizes());
  const AutocastOff guard(c10::autocast_dispatch_keyset);
  const Tensor q = query.view({tokens, options_.heads, 2, half_width()});
  const bool of_batch = is_training() && norm.running_mean.defined();
  if (!of_batch) return normalise_query(q, options_.query_norm, norm, is_training());
  const Tensor before = norm.running_mean.clone();
  int64_t counted = tokens;
  Tensor result;
  if (ranks_.size == 1) {
    result = normalise_query(q, options_.query_norm, norm, /*training=*/true);
  } else {
    const RankMoments moments = moments_over_ranks(q, ranks_);
    counted = moments.tokens;
    result = normalise_query_over_ranks(q, options_.query_norm, norm, moments, ranks_);
  }
  if (counted >= 2) {
    mean_shift_ = (norm.running_mean - before) / (norm.running_variance + kNormEpsilon).sqrt() / kNormMomentum;
  }
  return result;
}

double MemoryLayer::mean_distance() const {
  if (!mean_shift_.defined()) return std::numeric_limits<double>::quiet_NaN();
  return std::sqrt(mean_shift_.to(at::kDouble).square().mean().item<double>());
}

MemoryReads MemoryLayer::look_up(const Tokens& tokens, const BlockContext& context) {
  const int64_t count = tokens.x.size(0), reads_of_token = options_.heads * options_.top_k;
  Tensor q = dropout(normalised(tokens.query, count), options_.query_dropout, is_training(), context);
  const AutocastOff guard(c10::autocast_dispatch_keyset);
  if (options_.normalise_keys) q = unit_vectors(q);
  const auto [score, address] = search(q);
  const Tensor weight = weights_of(score, options_.weight).to(table_->sum_dtype());
  const Tensor index = rows_of(address);
  for (const TablePtr& table : tables()) table->prefetch(index);
  const Tensor output = read(tokens.x, index.view({count, reads_of_token}), weight.view({count, reads_of_token}));
  const MemoryReads reads = {output, score, index, weight, address, q};
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

void set_ranks(torch::nn::Module& module, const Ranks& ranks) {
  for (const auto& part : module.modules()) {
    if (auto* const memory = dynamic_cast<MemoryLayer*>(part.get())) memory->set_ranks(ranks);
  }
}

}  // namespace loci
