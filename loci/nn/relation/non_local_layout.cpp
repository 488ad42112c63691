#include "loci/nn/relation/non_local_layout.h"

#include <ATen/ops/max_pool2d.h>
#include <ATen/ops/max_pool3d.h>
#include <fmt/format.h>

#include "loci/base/check.h"
#include "loci/nn/batch_normalised.h"
#include "loci/ops/few_linear/few_linear.h"

// Legend: B batch, T frames, H height, W width of a map, c numbers of a position, n positions of a window.

namespace loci {

using at::Tensor;

void check_relation_map(const char* block, int64_t channels, int64_t dimensions) {
  if (channels < 1) fail(ExitCode::usage, block, "channels must be at least 1", fmt::to_string(channels));
  if (dimensions < 1 || dimensions > 3) {
    fail(ExitCode::usage, block, "dimensions must be 1, 2 or 3", fmt::to_string(dimensions));
  }
}

void require_relation_map(const char* block, const Tensor& x, int64_t channels, int64_t dimensions) {
  static constexpr const char* kMaps[] = {"[B, C, width]", "[B, C, height, width]", "[B, C, frames, height, width]"};
  TORCH_CHECK(x.dim() == dimensions + 2 && x.size(1) == channels && x.is_floating_point(), block, ": x must be ",
              kMaps[dimensions - 1], " of a floating type with C = ", channels, ", got ", x.sizes(), " of ",
              x.scalar_type());
}

Tensor pointwise(const Tensor& tokens, const Tensor& weight, const Tensor& bias) {
  const auto shift = bias.defined() ? std::optional(bias) : std::nullopt;
  return linear_map(as_parameter(tokens, weight), weight, shift);
}

Tensor map_tokens(const Tensor& x) {
  const Tensor last = x.movedim(1, -1).contiguous();  // [B, ..., c]
  std::vector<int64_t> sizes = {x.size(0), 1, 1, 1, x.size(1)};
  for (int64_t i = 2; i < x.dim(); ++i) sizes[static_cast<size_t>(4 - x.dim() + i)] = x.size(i);
  return last.view(sizes);
}

Tensor tokens_map(const Tensor& x, const Tensor& tokens) {
  std::vector<int64_t> sizes = x.sizes().vec();
  sizes.erase(sizes.begin() + 1);
  sizes.push_back(tokens.size(-1));
  return tokens.reshape(sizes).movedim(-1, 1);
}

Tensor max_pooled(const Tensor& tokens, const MapExtents& kernel) {
  if (kernel == MapExtents{1, 1, 1}) return tokens;
  const int64_t B = tokens.size(0), T = tokens.size(1), H = tokens.size(2), W = tokens.size(3), c = tokens.size(4);
  const MapExtents pooled = pooled_extents({T, H, W}, kernel);
  if (kernel[0] > 1) {
    return at::max_pool3d(tokens.permute({0, 4, 1, 2, 3}), kernel, kernel).permute({0, 2, 3, 4, 1}).contiguous();
  }
  const at::IntArrayRef edges(kernel.data() + 1, 2);
  const Tensor maps = tokens.view({B * T, H, W, c}).permute({0, 3, 1, 2});  // channels last
  return at::max_pool2d(maps, edges, edges).permute({0, 2, 3, 1}).reshape({B, T, pooled[1], pooled[2], c});
}

Tensor to_windows(const Tensor& tokens, const MapExtents& window) {
  const int64_t B = tokens.size(0), T = tokens.size(1), H = tokens.size(2), W = tokens.size(3), c = tokens.size(4);
  const auto [t, h, w] = window;
  const int64_t count = (T / t) * (H / h) * (W / w);
  if (h == H && w == W) return tokens.reshape({B * count, t * h * w, c});
  return tokens.view({B, T / t, t, H / h, h, W / w, w, c})
      .permute({0, 1, 3, 5, 2, 4, 6, 7})
      .reshape({B * count, t * h * w, c});
}

Tensor from_windows(const Tensor& y, const MapExtents& map, const MapExtents& window) {
  const auto [T, H, W] = map;
  const auto [t, h, w] = window;
  const int64_t count = (T / t) * (H / h) * (W / w), B = y.size(0) / count, c = y.size(2);
  if (h == H && w == W) return y.reshape({B, T, H, W, c});
  return y.view({B, T / t, H / h, W / w, t, h, w, c}).permute({0, 1, 4, 2, 5, 3, 6, 7}).reshape({B, T, H, W, c});
}

}  // namespace loci
