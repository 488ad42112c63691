// An autoencoder of images with a bottleneck of its user's choice: a plain map, a memory whose rows are the code, or
// vector quantisation (docs/vision-memory.md).
//
// Legend: B batch, C channels of the images, c `width`, d `code_width`; maps are channels last.
//
//   encoder     three convolutions 4x4 of stride 2 to c, 2c and 2c channels, batch norm and relu     [B, 2c, h, w]
//   bottleneck  plain: 1x1 to d;  [memory]: a memory map with rows d wide (memory_map.h);
//               [quantiser]: 1x1 to d, then the nearest code (vector_quantiser.h)                    [B, d, h, w]
//   decoder     three transposed convolutions 4x4 of stride 2 to 2c, c and C channels, batch norm and relu between them
//
// Height and width of the images are multiples of 8; h and w are an eighth of them.
#pragma once

#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "loci/models/map_memory_options.h"
#include "loci/models/trained_parameters.h"
#include "loci/nn/memory/vector_quantiser.h"
#include "loci/table/table_maker.h"

namespace loci {

// [model]; with neither sub-table the bottleneck is plain.
struct AutoencoderOptions {
  static constexpr int64_t kReduction = 8;
  int64_t width = 64;
  int64_t code_width = 64;
  int64_t channels = 3;  // of the images; no field
  bool has_memory = false;
  MapMemoryOptions memory;
  bool has_quantiser = false;
  VectorQuantiserOptions quantiser;
  void fields(ConfigFields& f);

  // Throws Error (usage) for options that do not fit each other.
  void check() const;
  // Dense parameters, and elements of the table.
  std::pair<int64_t, int64_t> parameters() const;
  // Of one image forward; norms and the choice of the best are not counted.
  int64_t multiply_adds(int64_t height, int64_t width) const;
};

struct Reconstruction {
  at::Tensor images;  // [B, C, height, width] float32
  at::Tensor loss;    // scalar: what the bottleneck adds to the loss; undefined unless it is a quantiser
  at::Tensor index;   // [B * h * w] int64: codes of a quantiser, height first; otherwise undefined
};

class Autoencoder : public torch::nn::Module {
 public:
  // Weights start as N(0, 2 / inputs) by counter from (seed, name).
  Autoencoder(AutoencoderOptions options, uint64_t seed, const TableMaker& tables = make_local_table);

  // images [B, C, height, width], scaled as in training.
  Reconstruction forward(const at::Tensor& images);

  const AutoencoderOptions& options() const { return options_; }
  std::vector<NamedParameter> dense_parameters() const { return trained_parameters(*this); }
  std::shared_ptr<ProductKeyMemory> memory() const { return map_ ? map_->memory : nullptr; }  // or none
  const std::shared_ptr<VectorQuantiser>& quantiser() const { return quantiser_; }            // or none

 private:
  struct Layer;
  std::shared_ptr<Layer> add_layer(const std::string& name, std::shared_ptr<Layer> layer);

  AutoencoderOptions options_;
  std::vector<std::shared_ptr<Layer>> encoder_, decoder_;
  std::shared_ptr<Layer> to_code_;  // none with a memory
  std::shared_ptr<MemoryMap> map_;
  std::shared_ptr<VectorQuantiser> quantiser_;
};

}  // namespace loci
