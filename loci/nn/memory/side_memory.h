// A memory at the side of a network: inserted after a block of a trained network it changes nothing at first. In place
// of residual blocks of a stage it is compared at equal cost.
//
// Legend: B batch, C channels, D width of a row.
//
//   y = x + batch_norm(W_o M(x))      M memory_map.h [B, D, ...], W_o [C, D]
//
// The norm's scale starts at 0 and nothing else does, so that the first step moves scale and shift, the second all. W_o
// has no bias: the norm would take it away.
#pragma once

#include <torch/nn/modules/common.h>
#include <torch/nn/modules/container/any_value.h>

#include <memory>
#include <string>

#include "loci/nn/block_context.h"
#include "loci/nn/memory/memory_formula.h"
#include "loci/nn/memory/memory_map.h"

namespace loci {

class SideMemory : public torch::nn::Module {
 public:
  // Options as of MemoryMap, with output none (W_o is the layer's own). Throws Error (usage).
  SideMemory(const std::string& name, const MemoryMapOptions& options, TablePtr table, uint64_t seed);

  // x [B, C, ...] -> the same, in x's dtype and layout. token_mask [B, ...]: where it is false, y = x. In training,
  // rows that give 0 everywhere under a scale of 0 are refused (c10::Error): neither would ever move.
  at::Tensor forward(const at::Tensor& x, const BlockContext& context = {});

  std::shared_ptr<MemoryMap> map;
  at::Tensor output_weight;  // W_o
  NormTensors norm;          // [C]

 protected:
  FORWARD_HAS_DEFAULT_ARGS({1, torch::nn::AnyValue(BlockContext())})
};

}  // namespace loci
