// The residual network for small images of He, Zhang, Ren and Sun 2016 ("Deep Residual Learning for Image Recognition",
// section 4.2): ResNet-20, 32, 44, 56, with a product-key memory in one of its stages if the options say so.
//
// Legend: B batch, C channels of the images, c channels of a stage, n blocks of a stage.
//
//   x = relu(bn1(conv1(images)))                               3x3, width channels          [B, c, height, width]
//   three stages, layer1 .. layer3, of n blocks with 1, 2 and 4 times as many channels; the first convolution of layer2
//   and of layer3 has stride 2:
//     block(x) = relu(bn2(conv2(relu(bn1(conv1(x))))) + shortcut(x))
//     shortcut(x) = x, or every second position of x between zero channels, as many before as after
//   logits = linear(mean of x over positions)                                               [B, classes]
//
//   side, replace_block   block's output x becomes x + batch_norm(W_o M(x))    side_memory.h
//   replace3x3            M in the place of conv2                              memory_map.h
//   non_local             block's output x becomes x + batch_norm(W_z y)       nn/relation/non_local.h
//
// Maps are channels last from the first convolution on, whatever the images are; the memory reads and writes them
// without a copy. Names of parameters and buffers are those of akamaster/pytorch_resnet_cifar10 (conv1.weight,
// layer2.0.bn1.running_mean, linear.bias), those of a memory or a non-local block begin with
// that of their block: layer3.2.memory, layer3.1.non_local.
#pragma once

#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "loci/models/resnet_options.h"
#include "loci/models/trained_parameters.h"
#include "loci/nn/memory/product_key_memory.h"
#include "loci/nn/relation/non_local.h"
#include "loci/table/table_maker.h"

namespace loci {

class ChannelNorm;

class Resnet : public torch::nn::Module {
 public:
  // Parameters come by counter from (seed, name, position): weights N(0, 2 / inputs) (He et al. 2015), the linear bias
  // 0. Throws Error (usage) for impossible options.
  Resnet(ResnetOptions options, uint64_t seed, const TableMaker& tables = make_local_table);

  // images [B, C, height, width] -> logits [B, classes], float32 or float64, under autocast too. Without classes the
  // mean of x over positions, [B, 4 width].
  at::Tensor forward(const at::Tensor& images);

  const ResnetOptions& options() const { return options_; }
  std::vector<NamedParameter> dense_parameters() const { return trained_parameters(*this); }
  // The non-local blocks by name ("layer3.1"), in their order.
  const NamedNonLocals& non_local() const { return non_local_; }
  // The memory, or none; and the number of its block among all blocks, from 0.
  const std::shared_ptr<ProductKeyMemory>& memory() const { return memory_; }
  int64_t memory_layer() const { return memory_layer_; }

  // Copies parameters and buffers of a trained model, by name. What is new here may be missing: a `side` memory,
  // non-local blocks, and extra blocks at the end of a stage, whose second norm then gets the scale 0. So a trained
  // network goes on with them, at first with the same output. num_batches_tracked is left out. Throws Error (input) in
  // the name of `who` for names that are unknown or missing, and for other shapes.
  void load(const std::map<std::string, at::Tensor>& state, const std::string& who = "Resnet");

 private:
  struct Convolution;
  struct Linear;
  struct Block;
  // Names of the blocks that model.extra_blocks added, with their places in blocks_.
  std::map<std::string, size_t> added_blocks() const;
  std::shared_ptr<Block> make_block(const std::string& name, int64_t stage, int64_t number, uint64_t seed,
                                    const TableMaker& tables);
  void add_memory(Block& block, const std::string& name, int64_t channels, uint64_t seed, const TableMaker& tables);

  ResnetOptions options_;
  std::shared_ptr<Convolution> stem_;
  std::shared_ptr<ChannelNorm> stem_norm_;
  std::vector<std::shared_ptr<Block>> blocks_;  // of all stages
  std::shared_ptr<Linear> linear_;              // none without classes
  std::shared_ptr<ProductKeyMemory> memory_;
  int64_t memory_layer_ = -1;
  NamedNonLocals non_local_;
};

}  // namespace loci
