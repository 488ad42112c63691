#include "loci/nn/memory/side_memory.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>

#include <cmath>
#include <utility>

#include "loci/base/check.h"
#include "loci/nn/dropout.h"
#include "loci/nn/initialise.h"
#include "loci/nn/token_mask.h"
#include "loci/ops/few_linear/few_linear.h"

namespace loci {
namespace {

using at::Tensor;

bool all_zero(const Tensor& x) {
  return !x.any().item<bool>();
}

}  // namespace

SideMemory::SideMemory(const std::string& name, const MemoryMapOptions& options, TablePtr table, uint64_t seed)
    : Module("SideMemory") {
  if (options.output != OutputMap::none) {
    fail(ExitCode::usage, "SideMemory", "output must be none (the layer has W_o of its own)", "another");
  }
  map = register_module("map", std::make_shared<MemoryMap>(name, options, std::move(table), seed));
  const int64_t channels = options.width, width = map->memory->table()->width();
  const double std = 1 / std::sqrt(static_cast<double>(channels));
  output_weight =
      register_parameter("output_weight", normal_start(seed, name + ".output_weight", {channels, width}, std));
  norm.gain = register_parameter("norm_gain", at::zeros({channels}));
  norm.bias = register_parameter("norm_bias", at::zeros({channels}));
  norm.running_mean = register_buffer("running_mean", at::zeros({channels}));
  norm.running_variance = register_buffer("running_variance", at::ones({channels}));
}

Tensor SideMemory::forward(const Tensor& x, const BlockContext& context) {
  const Tensor tokens = map->tokens(x);  // [B, ..., C]
  const int64_t all = tokens.numel() / tokens.size(-1);
  const Tensor positions = valid_positions(name(), all, context);
  const Tensor rows = map->memory->read_with_indices(tokens, context).output;  // [T', D]
  TORCH_CHECK(!is_training() || rows.numel() == 0 || !all_zero(norm.gain) || !all_zero(rows), name(),
              ": rows must not all be 0 while the norm's scale is 0 (neither would ever move), got 0");
  Tensor y = linear_map(as_parameter(rows, output_weight), output_weight);
  y = batch_normalised(y, norm, is_training()).to(x.scalar_type());
  y = dropout(y, map->options().output_dropout, is_training(), context);
  return x + MemoryMap::map_like(x, put_tokens(y, positions, all).view(tokens.sizes()));
}

}  // namespace loci
