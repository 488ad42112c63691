#include "loci/nn/memory/memory_layer.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/relu.h>
#include <ATen/ops/sigmoid.h>
#include <ATen/ops/silu.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/zeros.h>
#include <c10/core/impl/LocalDispatchKeySet.h>

#include <cmath>
#include <cstdio>
#include <utility>

#include "loci/base/check.h"
#include "loci/nn/few_linear.h"
#include "loci/nn/initialise.h"
#include "loci/ops/batch_norm/batch_norm.h"
#include "loci/ops/half_norm/half_norm.h"

namespace loci {
namespace {

using at::Tensor;

constexpr double kNormEpsilon = 1e-5;
constexpr double kLeastLength = 1e-6;  // of a vector that normalise_keys divides

// Autocast would cast the matrix products inside the search to bfloat16: scores, weights and rows' sums are float32.
using AutocastOff = c10::impl::ExcludeDispatchKeyGuard;

Tensor unit(const Tensor& x) {
  return x / at::linalg_vector_norm(x, 2, at::IntArrayRef{-1}, /*keepdim=*/true).clamp_min(kLeastLength);
}

void check_options(const std::string& who, const ProductKeyMemoryOptions& o, const Table& table, int64_t addresses) {
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
  if (o.query_net != "linear" && o.query_net != "mlp" && o.query_net != "none") {
    refuse("query_net must be linear, mlp or none", o.query_net);
  }
  if (o.query_net == "none" && o.width != o.heads * o.key_width) {
    refuse("width must be heads * key_width where query_net is none",
           fmt::format("width {}, heads {}, key_width {}", o.width, o.heads, o.key_width));
  }
  if ((o.query_net == "mlp") == o.query_hidden.empty()) {
    refuse("query_hidden must be given for query_net mlp, and only there",
           fmt::format("query_net {} with {} hidden widths", o.query_net, o.query_hidden.size()));
  }
  for (const int64_t hidden : o.query_hidden) {
    if (hidden < 1) refuse("query_hidden must be at least 1", std::to_string(hidden));
  }
  if (o.output == OutputMap::none && table.width() != o.width) {
    refuse(fmt::format("the table's width must be {} (the layer's) without an output map", o.width),
           std::to_string(table.width()));
  }
  if (o.output == OutputMap::none && o.zero_output) {
    refuse("zero_output must be false without an output map", "true");
  }
  if (o.row_offset < 0) refuse("row_offset must be at least 0", std::to_string(o.row_offset));
  for (const double share : {o.input_dropout, o.query_dropout, o.output_dropout}) {
    if (!(share >= 0 && share < 1)) refuse("dropout must be at least 0 and below 1", std::to_string(share));
  }
}

}  // namespace

void ProductKeyMemoryOptions::fields(ConfigFields& f) {
  f.field("width", width, {.minimum = 0});
  f.field("heads", heads, {.minimum = 1});
  f.field("top_k", top_k, {.minimum = 1});
  f.field("key_width", key_width, {.minimum = 0});
  f.choice("query_net", query_net, {"linear", "mlp", "none"});
  f.field("query_hidden", query_hidden, {.minimum = 1});
  f.choice(
      "query_norm", query_norm,
      {{"none", QueryNorm::none}, {"layer", QueryNorm::layer}, {"rms", QueryNorm::rms}, {"batch", QueryNorm::batch}});
  f.field("normalise_keys", normalise_keys);
  f.choice(
      "weight", weight,
      {{"softmax", WeightFunction::softmax}, {"relu", WeightFunction::relu}, {"sigmoid", WeightFunction::sigmoid}});
  f.choice("output", output,
           {{"none", OutputMap::none}, {"projection", OutputMap::projection}, {"swilu", OutputMap::swilu}});
  f.choice("addressing", addressing, {{"mask", RowAddressing::mask}, {"modulo", RowAddressing::modulo}});
  f.field("row_offset", row_offset, {.minimum = 0});
  f.field("input_dropout", input_dropout, {.minimum = 0, .maximum = 1});
  f.field("query_dropout", query_dropout, {.minimum = 0, .maximum = 1});
  f.field("output_dropout", output_dropout, {.minimum = 0, .maximum = 1});
  f.field("zero_output", zero_output);
}

int64_t resolved_key_width(const ProductKeyMemoryOptions& options, int64_t width) {
  if (options.key_width != 0) return options.key_width;
  if (options.query_net == "none") return width / std::max<int64_t>(1, options.heads);
  return std::max<int64_t>(2, (width / 2 + 1) / 2 * 2);
}

MemoryLayer::MemoryLayer(const std::string& who, const std::string& name, ProductKeyMemoryOptions options,
                         TablePtr table, int64_t addresses, uint64_t seed)
    : torch::nn::Module(who),
      options_(std::move(options)),
      table_(std::move(table)),
      addresses_(addresses),
      training_usage_(table_->rows()),
      evaluation_usage_(table_->rows()) {
  options_.key_width = resolved_key_width(options_, options_.width);
  check_options(who, options_, *table_, addresses_);
  if (options_.top_k == 1 && options_.weight == WeightFunction::softmax) {
    fmt::print(stderr,
               "{} {}: top_k = 1 with softmax gives the constant weight 1: keys and query net get no gradient\n", who,
               name);
  }
  use_ = table_->register_use();
  start_query_net(name, seed);
  start_output_map(name, seed);
}

void MemoryLayer::start_query_net(const std::string& name, uint64_t seed) {
  const int64_t heads = options_.heads, half = half_width();
  if (options_.query_net != "none") {
    std::vector<int64_t> widths = {options_.width};
    widths.insert(widths.end(), options_.query_hidden.begin(), options_.query_hidden.end());
    widths.push_back(heads * 2 * half);
    for (size_t i = 0; i + 1 < widths.size(); ++i) {
      const std::string layer = fmt::format("query_{}", i);
      const double bound = 1 / std::sqrt(static_cast<double>(widths[i]));  // the framework's default
      query_weight.push_back(register_parameter(
          layer + "_weight", uniform_start(seed, name + "." + layer + "_weight", {widths[i + 1], widths[i]}, bound)));
      query_bias.push_back(register_parameter(
          layer + "_bias", uniform_start(seed, name + "." + layer + "_bias", {widths[i + 1]}, bound)));
    }
  }
  const std::vector<int64_t> features = {heads, 2, half};
  if (options_.query_norm != QueryNorm::none) norm_gain = register_parameter("norm_gain", at::ones(features));
  if (options_.query_norm == QueryNorm::layer || options_.query_norm == QueryNorm::batch) {
    norm_bias = register_parameter("norm_bias", at::zeros(features));
  }
  if (options_.query_norm == QueryNorm::batch) {
    running_mean = register_buffer("running_mean", at::zeros(features));
    running_variance = register_buffer("running_variance", at::ones(features));
  }
  if (options_.normalise_keys) {
    // The spread of sub-scores at the default start of the keys is 0.577 for any width; unit vectors give w^-1/2.
    temperature = register_parameter("temperature", at::ones({heads}) * std::sqrt(static_cast<double>(half) / 3));
  }
}

void MemoryLayer::start_output_map(const std::string& name, uint64_t seed) {
  if (options_.output == OutputMap::none) return;
  const int64_t width = options_.width, value_width = table_->width();
  const double std = 1 / std::sqrt(static_cast<double>(width));
  output_weight = register_parameter("output_weight", normal_start(seed, name + ".output_weight", {width, value_width},
                                                                   options_.zero_output ? 0 : std));
  output_bias = register_parameter("output_bias", at::zeros({width}));
  if (options_.output == OutputMap::swilu) {
    gate_weight =
        register_parameter("gate_weight", normal_start(seed, name + ".gate_weight", {value_width, width}, std));
  }
}

MemoryLayer::Tokens MemoryLayer::valid_tokens(const Tensor& x, const BlockContext& context) const {
  TORCH_CHECK(x.dim() >= 1 && x.size(-1) == options_.width, name(), ": x must be [..., ", options_.width, "], got ",
              x.sizes());
  TORCH_CHECK(x.is_floating_point(), name(), ": x must be of a floating type, got ", x.scalar_type());
  const int64_t tokens = x.numel() / options_.width;
  const Tensor flat = x.reshape({tokens, options_.width});
  const Tensor& mask = context.token_mask;
  if (!mask.defined()) return {flat, {}};
  TORCH_CHECK(mask.scalar_type() == at::kBool && mask.numel() == tokens, name(), ": token_mask must be bool with ",
              tokens, " entries, one per token, got ", mask.scalar_type(), " ", mask.sizes());
  const Tensor positions = mask.reshape({tokens}).nonzero().squeeze(1);
  if (positions.size(0) == tokens) return {flat, {}};
  return {flat.index_select(0, positions), positions};
}

Tensor MemoryLayer::forward(const Tensor& x, const BlockContext& context) {
  const Tokens tokens = valid_tokens(x, context);
  const Tensor input = drop(tokens.x, options_.input_dropout, context);
  Tensor y = map_output(look_up(input, context).output, input).to(x.scalar_type());
  y = drop(y, options_.output_dropout, context);
  if (tokens.positions.defined()) {
    y = at::zeros({x.numel() / options_.width, options_.width}, y.options()).index_copy(0, tokens.positions, y);
  }
  return y.view(x.sizes());
}

MemoryLayer::Reads MemoryLayer::read_with_indices(const Tensor& x, const BlockContext& context) {
  return look_up(drop(valid_tokens(x, context).x, options_.input_dropout, context), context);
}

Tensor MemoryLayer::query(const Tensor& x) {
  Tensor q = x;
  // The batch's mean takes the last bias with it: its gradient is 0, and what rounding leaves of it would move Adam.
  const bool takes_mean_away = options_.query_norm == QueryNorm::batch && is_training() && x.size(0) > 1;
  for (size_t i = 0; i < query_weight.size(); ++i) {
    if (i > 0) q = at::relu(q);
    const Tensor bias = takes_mean_away && i + 1 == query_weight.size() ? query_bias[i].detach() : query_bias[i];
    const bool few = few_linear_takes(q, query_weight[i], bias);
    q = few ? few_linear(q, query_weight[i], bias) : at::linear(q, query_weight[i], bias);
  }
  const AutocastOff guard(c10::autocast_dispatch_keyset);
  const int64_t heads = options_.heads, half = half_width();
  const bool norm_widens = options_.query_norm == QueryNorm::batch && q.scalar_type() == at::kBFloat16;
  if (!norm_widens && q.scalar_type() != at::kDouble) q = q.to(at::kFloat);
  q = q.view({x.size(0), heads, 2, half});
  switch (options_.query_norm) {
    case QueryNorm::none:
      return q;
    case QueryNorm::layer:
      return half_norm(q, norm_gain.to(q.scalar_type()), norm_bias.to(q.scalar_type()), kNormEpsilon);
    case QueryNorm::rms:
      return half_norm(q, norm_gain.to(q.scalar_type()), std::nullopt, kNormEpsilon);
    case QueryNorm::batch: {
      const int64_t features = heads * 2 * half;
      return batch_norm(q.view({-1, features}), norm_gain.view(features), norm_bias.view(features),
                        running_mean.view(features), running_variance.view(features), is_training(), 0.1, kNormEpsilon)
          .view(q.sizes());
    }
  }
  return q;
}

MemoryLayer::Reads MemoryLayer::look_up(const Tensor& x, const BlockContext& context) {
  Tensor q = drop(query(x), options_.query_dropout, context);
  const AutocastOff guard(c10::autocast_dispatch_keyset);
  if (options_.normalise_keys) q = unit(q);

  Reads reads;
  auto [score, address] = search(q);
  switch (options_.weight) {
    case WeightFunction::softmax:
      reads.weight = at::softmax(score, -1);
      break;
    case WeightFunction::relu:
      reads.weight = at::relu(score);
      break;
    case WeightFunction::sigmoid:
      reads.weight = at::sigmoid(score);
      break;
  }
  const auto type = table_->values().scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  reads.weight = reads.weight.to(type);
  reads.score = std::move(score);
  reads.index = rows_of(address);
  if (count_usage_) count(reads);
  const int64_t tokens = x.size(0), count = options_.heads * options_.top_k;
  reads.output = read(x, reads.index.view({tokens, count}), reads.weight.view({tokens, count}));
  return reads;
}

void MemoryLayer::count(const Reads& reads) {
  const Tensor index = reads.index.contiguous(), weight = reads.weight.detach().to(at::kFloat).contiguous();
  usage().add(index.const_data_ptr<int64_t>(), weight.const_data_ptr<float>(), index.size(0), index.size(1),
              index.size(2), step_);
}

Tensor MemoryLayer::read(const Tensor&, const Tensor& index, const Tensor& weight) {
  return table_->read(index, weight, use_);
}

Tensor MemoryLayer::scaled_keys(const Tensor& keys) const {
  if (!options_.normalise_keys) return keys;
  std::vector<int64_t> per_head(static_cast<size_t>(keys.dim()), 1);
  per_head[0] = options_.heads;
  return unit(keys) * temperature.view(per_head);
}

Tensor MemoryLayer::rows_of(const Tensor& address) const {
  const Tensor moved = options_.row_offset == 0 ? address : address + options_.row_offset;
  return options_.row_offset == 0 && addresses_ <= table_->rows() ? moved : moved.remainder(table_->rows());
}

Tensor MemoryLayer::map_output(const Tensor& y, const Tensor& x) const {
  switch (options_.output) {
    case OutputMap::none:
      return y;
    case OutputMap::projection:
      return at::linear(y, output_weight, output_bias);
    case OutputMap::swilu:
      return at::linear(y * at::silu(at::linear(x, gate_weight)), output_weight, output_bias);
  }
  return y;
}

Tensor MemoryLayer::drop(const Tensor& x, double share, const BlockContext& context) const {
  if (share == 0 || !is_training()) return x;
  return x * at::empty_like(x).bernoulli_(1 - share, context.generator).div_(1 - share);
}

}  // namespace loci
