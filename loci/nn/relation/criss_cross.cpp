#include "loci/nn/relation/criss_cross.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/eye.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/zeros.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "loci/base/check.h"
#include "loci/nn/initialise.h"
#include "loci/nn/relation/non_local_layout.h"
#include "loci/ops/batch_product/batch_product.h"

// Legend: B batch, C channels, H height, W width of a map, I inner width.

namespace loci {

using at::Tensor;

void CrissCrossOptions::fields(ConfigFields& f) {
  f.field("inner", inner, "channels of queries and keys; 0: an eighth of the map's",
          {.minimum = 0, .maximum = 1 << 20});
  f.field("passes", passes, "how often the block is applied, with the same weights", {.minimum = 1, .maximum = 16});
}

void CrissCrossOptions::check() const {
  check_relation_map("CrissCross", channels, 2);
  if (inner < 0) fail(ExitCode::usage, "CrissCross", "inner must be at least 0", fmt::to_string(inner));
  if (passes < 1) fail(ExitCode::usage, "CrissCross", "passes must be at least 1", fmt::to_string(passes));
}

int64_t CrissCrossOptions::inner_width() const {
  return inner > 0 ? inner : std::max<int64_t>(1, channels / 8);
}

CrissCross::CrissCross(const std::string& name, const CrissCrossOptions& options, uint64_t seed)
    : Module("CrissCross"), options_(options) {
  options_.check();
  const int64_t C = options_.channels, I = options_.inner_width();
  const auto add = [&](const std::string& which, int64_t outputs, Tensor& weight, Tensor& bias) {
    const std::string weight_name = which + "_weight";
    const double std = std::sqrt(2.0 / static_cast<double>(C));
    weight =
        register_parameter(weight_name, normal_start(seed, fmt::format("{}.{}", name, weight_name), {outputs, C}, std));
    bias = register_parameter(which + "_bias", at::zeros({outputs}));
  };
  add("query", I, query_weight, query_bias);
  add("key", I, key_weight, key_bias);
  add("value", C, value_weight, value_bias);
  gain = register_parameter("gain", at::zeros({1}));
}

Tensor CrissCross::forward(const Tensor& x) {
  require_relation_map("CrissCross", x, options_.channels, 2);
  Tensor z = x;
  for (int64_t i = 0; i < options_.passes; ++i) z = pass(z);
  return z;
}

Tensor CrissCross::pass(const Tensor& x) const {
  const Tensor tokens = map_tokens(x).squeeze(1);  // [B, H, W, C]
  const int64_t B = tokens.size(0), H = tokens.size(1), W = tokens.size(2);
  const auto lines = [&](const Tensor& y, bool of_columns) {  // [B H, W, c] or [B W, H, c]
    return of_columns ? y.transpose(1, 2).reshape({B * W, H, y.size(3)}) : y.reshape({B * H, W, y.size(3)});
  };
  const auto of_positions = [&](const Tensor& y, bool of_columns) {  // the inverse: [B, H, W, c]
    return of_columns ? y.view({B, W, H, y.size(2)}).transpose(1, 2) : y.view({B, H, W, y.size(2)});
  };
  const Tensor query = pointwise(tokens, query_weight, query_bias), key = pointwise(tokens, key_weight, key_bias);
  const Tensor value = pointwise(tokens, value_weight, value_bias);
  const auto logits = [&](bool of_columns) {
    return batch_product(lines(query, of_columns), lines(key, of_columns).transpose(1, 2));
  };
  // A position stands in its row and in its column: it is left out of the column.
  const Tensor self = at::eye(H, query.options().dtype(at::kBool));
  const Tensor column = logits(true).masked_fill(self, -std::numeric_limits<double>::infinity());
  const Tensor p = at::softmax(at::cat({of_positions(logits(false), false), of_positions(column, true)}, -1), -1);
  const auto summed = [&](int64_t first, int64_t count, bool of_columns) {
    const Tensor weights = lines(p.narrow(-1, first, count), of_columns).to(value.scalar_type());
    return of_positions(batch_product(weights, lines(value, of_columns)), of_columns);
  };
  const Tensor y = summed(0, W, false) + summed(W, H, true);  // [B, H, W, C]
  return x + tokens_map(x, (y * gain).unsqueeze(1).to(x.scalar_type()));
}

}  // namespace loci
