// What blocks that relate the positions of a feature map share: checks of the map, maps as tokens, 1x1 convolutions and
// max pooling of tokens, cutting into windows.
//
// Legend: B batch, T frames, H height, W width of a map, c numbers of a position, n positions of a window.
#pragma once

#include <ATen/core/Tensor.h>

#include "loci/nn/relation/non_local_options.h"

namespace loci {

// Throws Error (usage) in the name of `block` unless channels >= 1 and dimensions is 1, 2 or 3.
void check_relation_map(const char* block, int64_t channels, int64_t dimensions);
// Throws c10::Error unless x is [B, channels, ...] with so many dimensions, of a floating type.
void require_relation_map(const char* block, const at::Tensor& x, int64_t channels, int64_t dimensions);

// A 1x1 convolution of tokens [.., C], in the parameters' type: weight [O, C], bias [O] or undefined -> [.., O].
at::Tensor pointwise(const at::Tensor& tokens, const at::Tensor& weight, const at::Tensor& bias);

// x [B, c, ...] as tokens [B, T, H, W, c], contiguous; of a channels-last map a view. Missing dimensions are 1.
at::Tensor map_tokens(const at::Tensor& x);
// The inverse: a channels-last map with the dimensions of x.
at::Tensor tokens_map(const at::Tensor& x, const at::Tensor& tokens);

// Max pooling, stride = kernel, what is left over at the ends is dropped: tokens [B, T, H, W, c] -> fewer.
at::Tensor max_pooled(const at::Tensor& tokens, const MapExtents& kernel);

// tokens [B, T, H, W, c] -> [B windows, n, c]; a view where windows are whole in all dimensions but the first ones.
at::Tensor to_windows(const at::Tensor& tokens, const MapExtents& window);
// The inverse. map: T, H, W.
at::Tensor from_windows(const at::Tensor& y, const MapExtents& map, const MapExtents& window);

}  // namespace loci
