// Camera relocalisation by regression: a residual network, a head and two linear maps (Kendall, Grimes and Cipolla
// 2015, "PoseNet"), the head a hidden layer or a memory (docs/vision-memory.md).
//
// Legend: B batch, C channels of the images, c features of the backbone, h `head_width`, r numbers of a rotation (4 or
// 3).
//
//   f = mean over positions of the residual network's last map                         resnet.h            [B, c]
//   g = relu(W f + b), or with [memory] the rows that the memory reads for f           memory_map.h        [B, h]
//   t^ = W_t dropout(g) + b_t,  q^ = W_q dropout(g) + b_q                              pose_loss.h         [B, 3], [B,
//   r]
#pragma once

#include <ATen/core/Generator.h>
#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "loci/models/map_memory_options.h"
#include "loci/models/pose_loss.h"
#include "loci/models/resnet.h"
#include "loci/models/trained_parameters.h"

namespace loci {

// [model]
struct PosenetOptions {
  int64_t depth = 8;   // of the residual network, 6 n + 2
  int64_t width = 16;  // channels of its first stage
  int64_t head_width = 512;
  double dropout = 0.5;
  PoseLossOptions loss;
  bool has_memory = false;
  MapMemoryOptions memory;
  int64_t channels = 3;  // of the images; no field
  void fields(ConfigFields& f);

  // Throws Error (usage) for options that do not fit each other.
  void check() const;
  ResnetOptions backbone() const;
  // Dense parameters, the loss's among them, and elements of the table.
  std::pair<int64_t, int64_t> parameters() const;
  // Of one image forward.
  int64_t multiply_adds(int64_t height, int64_t width) const;
};

struct PosePrediction {
  at::Tensor position;  // [B, 3]
  at::Tensor rotation;  // [B, r]
};

class Posenet : public torch::nn::Module {
 public:
  // Weights start as N(0, 2 / inputs) by counter from (seed, name).
  Posenet(PosenetOptions options, uint64_t seed, const TableMaker& tables = make_local_table);

  // Predictions start near this pose: the biases are set to it, and the weights before them are small.
  void start_at(const Pose& pose);

  // images [B, C, height, width], scaled as in training; dropout draws from the generator, none: the framework's.
  PosePrediction forward(const at::Tensor& images, const std::optional<at::Generator>& generator = {});
  // f [B, c], after the memory, if there is one, has read for it: for observers.
  at::Tensor read(const at::Tensor& images);

  const PosenetOptions& options() const { return options_; }
  std::vector<NamedParameter> dense_parameters() const { return trained_parameters(*this); }
  std::shared_ptr<ProductKeyMemory> memory() const { return map_ ? map_->memory : nullptr; }  // or none
  PoseLoss& loss() { return *loss_; }

 private:
  PosenetOptions options_;
  std::shared_ptr<Resnet> backbone_;
  std::shared_ptr<MemoryMap> map_;
  std::shared_ptr<PoseLoss> loss_;
  at::Tensor head_weight_, head_bias_;  // [h, c], [h]; undefined with a memory
  at::Tensor position_weight_, position_bias_, rotation_weight_, rotation_bias_;
};

}  // namespace loci
