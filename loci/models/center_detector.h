// A detector of boxes, keypoints and masks without anchors: per-pixel heads at the centres of the instances, as in
// Zhou, Wang and Kraehenbuehl 2019 ("Objects as Points"), on a feature pyramid; masks by votes for centres, as in Cheng
// et al. 2020 ("Panoptic-DeepLab").
//
// Legend: B images, K classes, F `width` of the pyramid, J = 4 keypoints, h = w the side of the map, a quarter of the
// image's; a cell is a position of the map, 4 x 4 pixels. Lengths below are in cells.
//
//   x = mean over levels i of p_i at the nearest of its positions         [B, F, h, w]     feature_pyramid.h
//   heat, size, offset = boxes(x)          [B, K, h, w], [B, 2, h, w], [B, 2, h, w]   3x3 F -> F, ReLU, 1x1
//   points = keypoints(x)                  [B, 2 J, h, w]: from the cell's corner to the keypoint, x and y in turn
//   mask, vote = masks(x)                  [B, 1, 4 h, 4 w], [B, 2, 4 h, 4 w]: at pixels, bilinear
//
// A non-local block may follow the first convolution of the keypoint head (head_non_local), and the ReLU it.
//
// Targets. An instance with box centre c lies in cell floor(c). Y(cell, class) = the largest of exp(-|cell -
// floor(c)|^2 / (2 s^2)) over the instances of the class, s = max(2/3, sqrt(box width * box height) / 9).
//
//   L_heat   -(1/n) sum of  (1 - q)^2 log q            where Y = 1, q = sigmoid(heat)
//                           (1 - Y)^4 q^2 log(1 - q)   elsewhere;  n instances of the batch, at least 1
//   L_size, L_offset, L_points   (1/n) sum over instances of |got - wanted| at their cells: width and height; c -
//            floor(c); keypoint - floor(c)
//   L_mask   mean over pixels of the binary cross entropy of mask against "in any instance"
//   L_vote   mean over such pixels of |vote - (c - pixel)|
//   L = L_heat + 0.1 L_size + L_offset + 0.1 L_points + L_mask + 0.1 L_vote
//
// Answers. A cell and class whose heat is the largest of its 3 x 3 cells is a detection of score q, the best `kMost` of
// an image; where the instances have the class by the heat and the box by offset and size. Its mask: pixels with mask >
// 0 whose votes end at most a quarter of the box's width and height from its centre.
#pragma once

#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "loci/data/detection/instances.h"
#include "loci/models/feature_pyramid.h"
#include "loci/models/trained_parameters.h"
#include "loci/nn/relation/non_local.h"

namespace loci {

// [model]
struct CenterDetectorOptions {
  static constexpr int64_t kCell = 4;   // pixels of a cell's side
  static constexpr int64_t kMost = 20;  // detections of an image
  ImageResnetOptions body;              // its fields stand in [model]
  int64_t pyramid_width = 32;           // F
  bool has_head_non_local = false;
  NonLocalOptions head_non_local;  // [model.head_non_local]
  int64_t classes = 3;             // K; no field: the data's
  int64_t side = 128;              // of the images; no field
  void fields(ConfigFields& f);

  void check() const;  // throws Error (usage)
  int64_t map_side() const { return side / kCell; }
  NonLocalOptions head_non_local_of_map() const;
  int64_t box_outputs() const { return classes + 4; }

  int64_t parameters() const;
  int64_t multiply_adds() const;  // of one image forward
  double kept_numbers() const;    // of one image that backward keeps
};

// What the heads say, float32 or float64.
struct CenterOutputs {
  at::Tensor heat, size, offset;  // [B, K, h, w], [B, 2, h, w], [B, 2, h, w]
  at::Tensor points;              // [B, 2 J, h, w]
  at::Tensor mask, vote;          // [B, 1, 4 h, 4 w], [B, 2, 4 h, 4 w]
};

// What they should say of a batch's instances.
struct CenterTargets {
  at::Tensor heat;                  // Y [B, K, h, w]
  at::Tensor cell;                  // [n, 3] int64: image, row, column
  at::Tensor size, offset, points;  // [n, 2], [n, 2], [n, 2 J]
  at::Tensor mask;                  // [B, 1, 4 h, 4 w], 0 or 1
  at::Tensor vote;                  // [B, 2, 4 h, 4 w]
};

CenterTargets center_targets(const std::vector<std::vector<Instance>>& images, const CenterDetectorOptions& options);
at::Tensor center_loss(const CenterOutputs& outputs, const CenterTargets& targets);
// Of each image, by falling score.
std::vector<std::vector<Detection>> center_detections(const CenterOutputs& outputs);

class CenterDetector : public torch::nn::Module {
 public:
  // Parameters come by counter from (seed, name, position). Throws Error (usage) for impossible options.
  CenterDetector(const CenterDetectorOptions& options, uint64_t seed);

  // images [B, channels, side, side]
  CenterOutputs forward(const at::Tensor& images);

  const CenterDetectorOptions& options() const { return options_; }
  std::vector<NamedParameter> dense_parameters() const { return trained_parameters(*this); }
  // The non-local blocks by name: "backbone.body.layer3.0", "head.keypoints".
  NamedNonLocals non_local() const;

  // Copies parameters and buffers of a trained network, by name: of a whole detector, or of a backbone alone, with or
  // without the pyramid. Blocks and extra blocks may be missing (ImageResnet::load). Throws Error (input) in the name
  // of `who`.
  void load(const std::map<std::string, at::Tensor>& state, const std::string& who);

 private:
  struct Head;

  CenterDetectorOptions options_;
  std::shared_ptr<FeaturePyramid> backbone_;
  std::shared_ptr<Head> boxes_, keypoints_, masks_;
};

}  // namespace loci
