// Legend: B batch, C channels, K inputs, O outputs.
#include "loci/models/binary_net.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/conv2d.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/max_pool2d.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>

#include <cmath>
#include <string>

#include "loci/base/check.h"
#include "loci/nn/initialise.h"
#include "loci/nn/small/binary_layers.h"
#include "loci/nn/small/shift_norm.h"

namespace loci {
namespace {

using at::Tensor;

constexpr double kImageBorder = -255;  // a black pixel

}  // namespace

struct BinaryNet::Stage : torch::nn::Module {
  Stage(const std::string& name, const BinaryStage& stage, const BinaryNetOptions& options, bool first, uint64_t seed)
      : Module("Stage"), shape(stage), by_shifts(options.norm == NetNorm::shift) {
    const bool binary = options.weights == NetWeights::binary;
    border = first ? kImageBorder : binary ? 1 : 0;
    if (binary && shape.convolution) {
      convolution = register_module("product",
                                    std::make_shared<BinaryConv2d>(name, shape.inputs, shape.outputs, 3, seed, border));
    } else if (binary) {
      linear = register_module("product", std::make_shared<BinaryLinear>(name, shape.inputs, shape.outputs, seed));
    } else {
      std::vector<int64_t> sizes = {shape.outputs, shape.inputs};
      if (shape.convolution) sizes.insert(sizes.end(), {3, 3});
      const double deviation = std::sqrt(2.0 / static_cast<double>(shape.of_output()));
      real = register_parameter("weight", normal_start(seed, name + ".weight", sizes, deviation));
    }
    if (binary && !shape.last && options.activations == NetActivations::sampled) {
      sampled = register_module("activation", std::make_shared<StraightThroughSign>(name + ".activation", true, seed));
    }
    norm.gain = register_parameter("gain", at::ones({shape.outputs}));
    norm.bias = register_parameter("bias", at::zeros({shape.outputs}));
    norm.running_mean = register_buffer("running_mean", at::zeros({shape.outputs}));
    norm.running_variance = register_buffer("running_variance", at::ones({shape.outputs}));
  }

  Tensor product(const Tensor& x) const {
    if (convolution) return convolution->forward(x);
    if (linear) return linear->forward(x);
    if (!shape.convolution) return at::linear(x, real);
    return at::conv2d(at::constant_pad_nd(x, {1, 1, 1, 1}, border), real);
  }

  Tensor forward(const Tensor& x) const {
    Tensor y = product(x);
    if (shape.pooled) y = at::max_pool2d(y, 2);
    const Tensor rows = y.dim() == 4 ? y.permute({0, 2, 3, 1}).reshape({-1, shape.outputs}) : y;
    const Tensor next = activated(normalised(rows));
    if (y.dim() != 4) return next;
    return next.view({y.size(0), y.size(2), y.size(3), shape.outputs}).permute({0, 3, 1, 2});
  }

  // rows [B pixels, O]
  Tensor normalised(const Tensor& rows) const {
    return by_shifts ? shift_normalised(rows, norm, is_training()) : batch_normalised(rows, norm, is_training());
  }
  Tensor activated(const Tensor& normal) const {
    if (shape.last) return normal;
    if (real.defined()) return normal.relu();
    return sampled ? sampled->forward(normal) : straight_through_sign(normal);
  }

  BinaryStage shape;
  bool by_shifts;
  double border = 0;
  std::shared_ptr<BinaryConv2d> convolution;  // one of three
  std::shared_ptr<BinaryLinear> linear;
  Tensor real;
  std::shared_ptr<StraightThroughSign> sampled;  // or null: the sign
  NormTensors norm;
};

BinaryNet::BinaryNet(const BinaryNetOptions& options, uint64_t seed) : Module("BinaryNet"), options_(options) {
  options_.check();
  for (const BinaryStage& stage : options_.stages()) {
    const std::string name = fmt::format("stage{}", stages_.size());
    stages_.push_back(register_module(name, std::make_shared<Stage>(name, stage, options_, stages_.empty(), seed)));
  }
}

Tensor BinaryNet::forward(const Tensor& images) const {
  TORCH_CHECK(images.dim() == 4 && images.size(1) == options_.channels && images.size(2) == options_.height &&
                  images.size(3) == options_.width,
              "BinaryNet: images must be [B, ", options_.channels, ", ", options_.height, ", ", options_.width,
              "], got ", images.sizes());
  Tensor x = images;
  for (const auto& stage : stages_) {
    if (!stage->shape.convolution && x.dim() == 4) x = x.permute({0, 2, 3, 1}).flatten(1);
    x = stage->forward(x);
  }
  return x;
}

std::vector<NamedParameter> BinaryNet::dense_parameters() const {
  std::vector<NamedParameter> list;
  for (const auto& parameter : named_parameters()) {
    const Tensor& value = parameter.value();
    const bool binary = parameter.key().ends_with(".product.weight");
    list.push_back(binary ? binary_parameter(parameter.key(), value)
                          : NamedParameter{.name = parameter.key(), .value = value, .decay = value.dim() >= 2});
  }
  return list;
}

Tensor BinaryNet::weight(size_t i) const {
  const Stage& stage = *stages_.at(i);
  return stage.convolution ? stage.convolution->weight : stage.linear ? stage.linear->weight : stage.real;
}

NormLine BinaryNet::line(size_t i) const {
  const Stage& stage = *stages_.at(i);
  return stage.by_shifts ? line_of_shift_norm(stage.norm) : line_of_norm(stage.norm);
}

}  // namespace loci
