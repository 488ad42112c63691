// What a network that predicts a camera's pose is trained with: three ways to weigh metres against rotations.
//
// Legend: B batch; t true position [B, 3] in metres, q true rotation as a canonical unit quaternion [B, 4] (w first);
// t^, q^, v^ predictions. Means are over the batch.
//
//   beta     mean |t - t^| + beta mean |q - q^ / |q^||                      Kendall, Grimes and Cipolla 2015, equation
//   2 learned  L_t e^-s + s + L_q e^-r + r, L_t and L_q the two means above   Kendall and Cipolla 2017, equation 7 logq
//   the same with L_t = mean |t - t^|_1 and L_q = mean |log q - v^|_1; log q = v / |v| acos w of q = (w, v), 0
//            for no rotation                                                Brahmbhatt et al. 2018 (MapNet), equation 2
//
// s and r are parameters.
#pragma once

#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "loci/base/config_fields.h"
#include "loci/data/poses/rotation.h"

namespace loci {

enum class PoseLossKind { beta, learned, logq };

struct PoseLossOptions {
  PoseLossKind kind = PoseLossKind::learned;
  double beta = 250;  // of rotations, in kind beta
  void fields(ConfigFields& f);
  // How many numbers stand for a rotation: 4 (quaternion) or 3 (its logarithm).
  int64_t rotation_width() const { return kind == PoseLossKind::logq ? 3 : 4; }
};

class PoseLoss : public torch::nn::Module {
 public:
  explicit PoseLoss(const PoseLossOptions& options);

  int64_t rotation_width() const { return options_.rotation_width(); }
  // Poses as targets of the loss: positions [B, 3] and rotations [B, rotation_width()], float32.
  std::pair<at::Tensor, at::Tensor> targets(std::span<const Pose> poses) const;
  // Predictions t^ [B, 3] and q^ or v^ [B, rotation_width()] and their targets -> a scalar, float32 (float64 for
  // float64).
  at::Tensor forward(const at::Tensor& position, const at::Tensor& rotation, const at::Tensor& true_position,
                     const at::Tensor& true_rotation);
  // Predictions as poses. Infinite ones and NaN stay so.
  std::vector<Pose> poses(const at::Tensor& position, const at::Tensor& rotation) const;

  at::Tensor s, r;  // scalars; undefined for `beta`

 private:
  PoseLossOptions options_;
};

}  // namespace loci
