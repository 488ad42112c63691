// A network of one ODE block (nn/small/ode_block.h), for points and for images.
//
// Legend: B batch, D numbers of a point, C channels, A channels that are added, h w positions of a map.
//
//   points   y = block(x)                                                            x [B, D]
//   images   y = block(mean of x over squares of `input_pool` pixels)                x [B, C, height, width]
//   scores   linear(y), of a map linear(mean of y over squares of `output_pool`); without classes the first D numbers
//
// The field is a chain of layers (nn/small/depth_layers.h), linear or 3x3 convolutions, with `hidden` outputs each and
// an activation between them.
#pragma once

#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "loci/base/config_fields.h"
#include "loci/nn/small/depth_layers.h"
#include "loci/nn/small/ode_block.h"
#include "loci/optim/dense_optimizer.h"

namespace loci {

// How the field depends on s: not at all, as an input, by weights that are sums of a basis, by weights for each piece.
enum class DepthVariance { constant, concat, fourier, chebyshev, pieces };
enum class FieldActivation { tanh, softplus };

// [model]
struct OdeNetOptions {
  std::vector<int64_t> hidden = {16, 16};
  FieldActivation activation = FieldActivation::tanh;
  DepthVariance variance = DepthVariance::constant;
  int64_t terms = 3;   // of a basis
  int64_t pieces = 5;  // of variance `pieces`
  OdeBlockOptions block;
  int64_t input_pool = 2, output_pool = 2;  // of images
  void fields(ConfigFields& f);

  bool images = false;  // no fields: the data's
  int64_t channels = 2, height = 1, width = 1, classes = 2;

  void check() const;  // throws Error (usage)
  OdeBlockOptions block_of_data() const;
  DepthTerms depth_terms() const;
  // Outputs of the field's layers; its inputs are the block's field_inputs().
  std::vector<int64_t> field_widths() const;
  int64_t map_height() const { return images ? height / input_pool : 1; }
  int64_t map_width() const { return images ? width / input_pool : 1; }
  int64_t head_inputs() const;
  int64_t parameters() const;
  int64_t multiply_adds() const;  // of a sample forward; 0 where a method chooses its steps
  double kept_numbers() const;    // of a sample that backward keeps; of chosen steps a guess
};

class OdeNet : public torch::nn::Module {
 public:
  OdeNet(const OdeNetOptions& options, uint64_t seed);

  // Points [B, D] or images [B, C, height, width] -> scores [B, classes], or points [B, D] without classes.
  at::Tensor forward(const at::Tensor& x) const;
  at::Tensor block_input(const at::Tensor& x) const;

  const OdeBlock& block() const { return *block_; }
  const OdeNetOptions& options() const { return options_; }
  std::vector<NamedParameter> dense_parameters() const;

 private:
  OdeNetOptions options_;
  std::shared_ptr<OdeBlock> block_;
  at::Tensor head_weight_, head_bias_;  // [classes, inputs], [classes]
};

}  // namespace loci
