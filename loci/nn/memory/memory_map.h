// Product-key memory on feature maps: every position asks for rows by itself (docs/vision-memory.md).
//
// Legend: B batch, C channels, T positions of all maps, H heads, K top_k, Dk key width, D width of a row.
//
//   q = norm(convolutions(x))                 one query a position and head       [T, H, Dk]
//   y = product-key memory of q               product_key_memory.h                [B, D, ...]
//
// Positions are tokens height first: token = ((b * frames + t) * height + y) * width + x. Maps in memory are contiguous
// or channels last (each position's channels together, [B, ..., C] in memory). A channels-last map is read and written
// without a copy: with the default kernel of 1 the query is one matrix product on a view. A contiguous map is
// transposed once each way. The numbers are the same bits.
//
// Placements in a network:
//   side            y = x + batch_norm(W_o M(x))      side_memory.h; in place of residual blocks too
//   3x3 convolution y = M(x), or W_o M(x)             a MemoryMap between the norms of its block
//   head            y = M(pooled x)                   dimensions 0: one query an image
#pragma once

#include <torch/nn/modules/common.h>
#include <torch/nn/modules/container/any_value.h>

#include <memory>
#include <string>
#include <vector>

#include "loci/base/config_fields.h"
#include "loci/nn/block_context.h"
#include "loci/nn/memory/product_key_memory.h"

namespace loci {

// `width` is C. With an output map, W_o, y has C channels, without it those of the table. `query_hidden` are the
// channels between the kernels, each with batch norm and ReLU.
struct MemoryMapOptions : ProductKeyMemoryOptions {
  int64_t dimensions = 2;                    // of a map: 1 length; 2 height, width; 3 frames, height, width; 0: [B, C]
  std::vector<int64_t> query_kernels = {1};  // odd edges of the query's convolutions
  MemoryMapOptions() {
    top_k = 16;
    key_width = 64;
    query_norm = QueryNorm::batch;
  }
  void fields(ConfigFields& f);
};

class MemoryMap : public torch::nn::Module {
 public:
  // As ProductKeyMemory. The rows of the table make the sub-keys: 64 a half for 4,096.
  MemoryMap(const std::string& name, const MemoryMapOptions& options, TablePtr table, uint64_t seed);

  // x [B, C, ...] -> [B, D, ...] ([B, C, ...] with an output map), in x's dtype; contiguous for a contiguous x,
  // otherwise channels last. token_mask: [B, ...] bool.
  at::Tensor forward(const at::Tensor& x, const BlockContext& context = {});
  // What forward() reads, before the output map; tokens height first.
  MemoryReads read_with_indices(const at::Tensor& x, const BlockContext& context = {});
  // x as tokens [B, ..., C], contiguous: a view of a channels-last map.
  at::Tensor tokens(const at::Tensor& x) const;
  // Back: tokens [B, ..., D] as a map [B, D, ...], laid out like x.
  static at::Tensor map_like(const at::Tensor& x, const at::Tensor& tokens);

  const MemoryMapOptions& options() const { return options_; }

  // Observers and calibration (of a single kernel of 1) take it; its tokens are those of tokens().
  std::shared_ptr<ProductKeyMemory> memory;

 protected:
  FORWARD_HAS_DEFAULT_ARGS({1, torch::nn::AnyValue(BlockContext())})

 private:
  MemoryMapOptions options_;
};

}  // namespace loci
