#include "loci/nn/relation/non_local_diagnosis.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/full_like.h>
#include <ATen/ops/meshgrid.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/where.h>
#include <ATen/ops/xlogy.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "loci/nn/relation/non_local_layout.h"
#include "loci/ops/batch_product/batch_product.h"

// Legend: B batch, N positions of a query's window, n those of them that are looked at, M positions of its keys.

namespace loci {
namespace {

using at::Tensor;

constexpr int64_t kSamples = 4, kQueries = 256;

// The centres of pooled cells, in unpooled positions: [1, T, H, W, 3].
Tensor cell_centres(const MapExtents& map, const MapExtents& kernel) {
  std::vector<Tensor> axes;
  for (size_t i = 0; i < 3; ++i) {
    const auto edge = static_cast<double>(kernel[i]);
    axes.push_back(at::arange(map[i], at::kDouble) * edge + 0.5 * (edge - 1));
  }
  return at::stack(at::meshgrid(axes, "ij"), -1).unsqueeze(0);
}

double root_mean_square(const Tensor& x) {
  return std::sqrt(x.to(at::kDouble).square().mean().item<double>());
}

}  // namespace

Tensor weight_shares(const Tensor& p) {
  const Tensor size = p.to(at::kDouble).abs(), sum = size.sum(-1, /*keepdim=*/true);
  return at::where(sum > 0, size / sum, at::full_like(size, 1 / static_cast<double>(p.size(-1))));
}

NonLocalDiagnosis diagnose(const NonLocal& block, const Tensor& x) {
  const at::NoGradGuard no_gradient;
  TORCH_CHECK(x.dim() > 0 && x.size(0) > 0, "diagnose: x must have a sample, got ", x.sizes());
  const Tensor samples = x.narrow(0, 0, std::min(kSamples, x.size(0)));
  const NonLocal::Pairs pairs = block.pairs(samples);
  NonLocalDiagnosis result;

  const int64_t N = pairs.query.size(1), M = pairs.key.size(1), windows = pairs.query.size(0) / samples.size(0);
  const int64_t step = std::clamp<int64_t>((N * windows + kQueries - 1) / kQueries, 1, N);
  const auto chosen = [&](const Tensor& queries) { return queries.slice(1, 0, c10::nullopt, step); };
  const Tensor p = weight_shares(block.weights(chosen(pairs.query), pairs.key));  // [B windows, n, M]
  result.largest_weight = p.amax(-1).mean().item<double>();
  if (M > 1) {
    const Tensor entropy = at::xlogy(p, p).sum(-1).neg() / std::log(static_cast<double>(M));
    result.entropy = entropy.mean().item<double>();
    result.greatest_entropy = entropy.max().item<double>();
  }
  const MapExtents kernel = block.options().kernel();
  const Tensor here = chosen(to_windows(cell_centres(pairs.map, {1, 1, 1}), pairs.window)).unsqueeze(2);
  const Tensor there = to_windows(cell_centres(pooled_extents(pairs.map, kernel), kernel), pairs.keys).unsqueeze(1);
  const Tensor offset = (here - there).abs();  // [windows, n, M, 3]
  const auto mean_of = [&](const Tensor& distance) {
    return (p.view({samples.size(0), windows, -1, M}) * distance).sum(-1).mean().item<double>();
  };
  result.time_distance = mean_of(offset.select(-1, 0));
  result.space_distance = mean_of(offset.narrow(-1, 1, 2).square().sum(-1).sqrt());

  const Tensor y = batch_product(block.weights(pairs.query, pairs.key).to(pairs.value.scalar_type()), pairs.value);
  const double input = root_mean_square(samples), added = root_mean_square(block.residual(samples, pairs, y, false));
  result.residual_ratio = added == 0 ? 0 : added / input;
  const Tensor& scale = block.norm.gain.defined() ? block.norm.gain : block.output_weight;
  result.largest_scale = scale.abs().max().item<double>();
  return result;
}

bool NonLocalDiagnosis::still_dead(int64_t steps) const {
  return steps >= 1000 && residual_ratio < 1e-4 && largest_scale < 1e-3;
}

bool NonLocalDiagnosis::collapsed() const {
  return greatest_entropy < 0.01;
}

std::string warning_of(const NonLocalDiagnosis& d, int64_t steps) {
  if (d.still_dead(steps)) {
    return fmt::format("block still dead: it adds {:.1e} of its input after {} steps", d.residual_ratio, steps);
  }
  if (d.collapsed()) return "collapsed to one key: every query looks at a single position";
  return "";
}

}  // namespace loci
