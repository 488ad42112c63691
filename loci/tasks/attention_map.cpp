// Legend: T frames, H height, W width of a block's map; M keys of a window.
#include "loci/tasks/attention_map.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "loci/nn/relation/non_local_diagnosis.h"
#include "loci/nn/relation/non_local_layout.h"
#include "loci/ops/batch_product/batch_product.h"

namespace loci {
namespace {

using at::Tensor;

// The positions (frame, y, x) of `added` [T, H, W] with the largest values, no two within a quarter of the edges in one
// frame.
std::vector<MapExtents> largest_apart(Tensor added, int64_t count) {
  added = added.clone();
  const int64_t H = added.size(1), W = added.size(2);
  std::vector<MapExtents> found;
  while (std::ssize(found) < count) {
    const auto place = added.argmax().item<int64_t>();
    if (added.flatten()[place].item<double>() < 0) break;  // all are taken
    const int64_t t = place / (H * W), y = place / W % H, x = place % W;
    found.push_back({t, y, x});
    const int64_t up = std::max<int64_t>(0, y - H / 4), left = std::max<int64_t>(0, x - W / 4);
    added[t].slice(0, up, y + H / 4 + 1).slice(1, left, x + W / 4 + 1).fill_(-1);
  }
  return found;
}

std::vector<double> rounded_shares(const Tensor& shares) {
  const Tensor flat = shares.to(at::kDouble).flatten().contiguous();
  std::vector<double> numbers(flat.const_data_ptr<double>(), flat.const_data_ptr<double>() + flat.numel());
  for (double& number : numbers) number = std::round(number * 1e4) / 1e4;
  return numbers;
}

// Of one sample x [1, C, ...].
nlohmann::json attention_of(const std::string& name, const NonLocal& block, const Tensor& x, int64_t count) {
  const NonLocal::Pairs pairs = block.pairs(x);
  const MapExtents& map = pairs.map;
  const MapExtents keys = pooled_extents(map, block.options().kernel());
  const Tensor p = block.weights(pairs.query, pairs.key);  // [windows, N, M]
  const Tensor y = batch_product(p.to(pairs.value.scalar_type()), pairs.value);
  const auto norms = [](const Tensor& of_map) { return map_tokens(of_map).to(at::kDouble).norm(2, -1)[0]; };
  const Tensor added = norms(block.residual(x, pairs, y, false)), input = norms(x).clamp_min(1e-12);  // [T, H, W]

  const Tensor shares = weight_shares(p);
  const Tensor positions = at::arange(map[0] * map[1] * map[2], at::kLong).view({1, map[0], map[1], map[2], 1});
  const Tensor place = to_windows(positions, pairs.window).squeeze(-1);  // [windows, N]
  nlohmann::json queries = nlohmann::json::array();
  for (const MapExtents& at : largest_apart(added, count)) {
    const auto& [t, h, w] = at;
    const Tensor here = place.eq((t * map[1] + h) * map[2] + w).nonzero()[0];  // window, n
    const auto window = here[0].item<int64_t>();
    Tensor weight = at::zeros({shares.size(0), shares.size(2), 1}, at::kDouble);
    weight[window].select(-1, 0).copy_(shares[window][here[1].item<int64_t>()]);
    const double adds = (added[t][h][w] / input[t][h][w]).item<double>();
    queries.push_back({{"at", at},
                       {"adds", std::round(adds * 1e4) / 1e4},
                       {"weight", rounded_shares(from_windows(weight, keys, pairs.keys))}});
  }
  return {{"block", name}, {"map", map}, {"keys", keys}, {"queries", queries}};
}

}  // namespace

KeptInputs::KeptInputs(NamedNonLocals blocks, int64_t samples) : blocks_(std::move(blocks)) {
  for (const auto& [name, block] : blocks_) block->keep_inputs(samples);
}

KeptInputs::~KeptInputs() {
  for (const auto& [name, block] : blocks_) block->keep_inputs(0);
}

std::vector<nlohmann::json> KeptInputs::attention_maps(int64_t queries) const {
  const at::NoGradGuard no_gradient;
  std::vector<nlohmann::json> maps;
  for (const auto& [name, block] : blocks_) {
    const Tensor& input = block->kept_input();
    const int64_t samples = input.defined() ? input.size(0) : 0;
    maps.resize(static_cast<size_t>(samples), nlohmann::json::array());
    for (int64_t i = 0; i < samples; ++i) {
      maps[static_cast<size_t>(i)].push_back(attention_of(name, *block, input.narrow(0, i, 1), queries));
    }
  }
  return maps;
}

}  // namespace loci
