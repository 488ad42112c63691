// Legend: B batch, C channels, K inputs, O outputs.
#include "loci/models/packed_net.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/bitwise_right_shift.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <memory>
#include <string>
#include <utility>

#include "loci/base/check.h"
#include "loci/nn/small/fold_norm.h"
#include "loci/ops/binary_linear/binary_linear.h"

namespace loci {
namespace {

using at::Tensor;

constexpr int64_t kPlanes = 8;  // of a pixel
constexpr int64_t kLargestPixel = 255;

int64_t words_of(int64_t signs) {
  return (signs + 63) / 64;
}

// map [B, height, width, n] -> what the 3x3 kernel sees, with zeros around: [B height width, 9 n], row by row.
Tensor windows(const Tensor& map) {
  const Tensor wide = at::constant_pad_nd(map, {0, 0, 1, 1, 1, 1});
  return wide.unfold(1, 3, 1).unfold(2, 3, 1).permute({0, 1, 2, 4, 5, 3}).reshape({-1, 9 * map.size(3)});
}

// product [B, height, width, O] -> its 2x2 max.
Tensor pooled_max(const Tensor& product) {
  const int64_t B = product.size(0), rows = product.size(1) / 2, columns = product.size(2) / 2, O = product.size(3);
  return product.narrow(1, 0, 2 * rows).narrow(2, 0, 2 * columns).reshape({B, rows, 2, columns, 2, O}).amax({2, 4});
}

}  // namespace

PackedNet::PackedNet(const BinaryNetOptions& options) : Module("PackedNet"), options_(options) {
  if (options_.weights != NetWeights::binary) {
    fail(ExitCode::usage, "PackedNet", "the network's weights must be binary", "real ones");
  }
  options_.check();
  std::vector<int64_t> plan;
  for (const BinaryStage& shape : options_.stages()) {
    const auto holder = register_module(fmt::format("stage{}", stages_.size()), std::make_shared<Module>("Stage"));
    Stage stage;
    stage.shape = shape;
    stage.words = shape.words();
    stage.unused = 64 * stage.words - shape.of_output();
    const int64_t O = shape.outputs;
    const auto add = [&](const char* what, at::IntArrayRef sizes, at::ScalarType type) {
      return holder->register_buffer(what, at::zeros(sizes, type));
    };
    stage.bits = add("bits", {O, stage.words}, at::kLong);
    if (shape.last) {
      stage.mean = add("mean", {O}, at::kFloat);
      stage.factor = add("factor", {O}, at::kFloat);
      stage.bias = add("bias", {O}, at::kFloat);
    } else {
      stage.threshold = add("threshold", {O}, at::kInt);
      stage.turned = add("turned", {words_of(O)}, at::kLong);
    }
    plan.insert(plan.end(), {shape.convolution ? 1 : 0, shape.inputs, O, shape.pooled ? 1 : 0});
    stages_.push_back(std::move(stage));
  }
  plan_ = register_buffer("plan", at::tensor(plan, at::kLong).view({std::ssize(stages_), 4}));
  image_ = register_buffer("image", at::tensor({options_.height, options_.width, options_.channels}, at::kLong));
}

PackedNet::PackedNet(const BinaryNet& network) : PackedNet(network.options()) {
  take(network);
}

void PackedNet::take(const BinaryNet& network) {
  for (size_t i = 0; i < stages_.size(); ++i) {
    Stage& stage = stages_[i];
    const int64_t O = stage.shape.outputs;
    Tensor weight = network.weight(i).detach();
    if (stage.shape.convolution) weight = weight.permute({0, 2, 3, 1});  // [O, 3, 3, C]
    weight = weight.reshape({O, -1, stage.shape.group});
    stage.bits.copy_(sign_pack(weight).view({O, stage.words}));
    if (stage.shape.last) {
      const NormLine line = network.line(i);
      stage.mean.copy_(line.mean);
      stage.factor.copy_(line.factor);
      stage.bias.copy_(line.bias);
    } else {
      const SignThreshold folded = fold_line(network.line(i), (i == 0 ? kLargestPixel : 1) * stage.shape.of_output());
      stage.threshold.copy_(folded.threshold + (i == 0 ? 0 : stage.unused));
      stage.turned.copy_(folded.turned);
    }
  }
}

// The products of the bit planes, one after another: [rows, O] int32.
Tensor PackedNet::first(const Stage& stage, const Tensor& pixels) const {
  const Tensor rows = stage.shape.convolution ? windows(pixels) : pixels.flatten(1);  // [.., K] int32
  Tensor sum = at::zeros({rows.size(0), stage.shape.outputs}, at::kInt);
  for (int64_t plane = 0; plane < kPlanes; ++plane) {
    const Tensor set = at::bitwise_right_shift(rows, plane).bitwise_and(1).to(at::kFloat);
    const Tensor signs = sign_pack(-set);  // -0 is +1
    sum.sub_(binary_linear(signs, stage.bits, stage.shape.of_output()), int64_t{1} << plane);
  }
  return sum;
}

// product [rows, O] -> bits: [B, height, width, words] of a map, [B, words] without.
Tensor PackedNet::next(const Stage& stage, const Tensor& product) const {
  const BinaryStage& shape = stage.shape;
  if (!shape.convolution) return binary_threshold(product, stage.threshold, stage.turned);
  Tensor map = product.view({-1, shape.height, shape.width, shape.outputs});
  if (shape.pooled) map = pooled_max(map);
  const Tensor bits = binary_threshold(map.reshape({-1, shape.outputs}), stage.threshold, stage.turned);
  return bits.view({map.size(0), map.size(1), map.size(2), bits.size(1)});
}

Tensor PackedNet::forward(const Tensor& images) const {
  TORCH_CHECK(images.dim() == 4 && images.size(1) == options_.channels && images.size(2) == options_.height &&
                  images.size(3) == options_.width,
              "PackedNet: images must be [B, ", options_.channels, ", ", options_.height, ", ", options_.width,
              "], got ", images.sizes());
  const Tensor pixels = ((images.permute({0, 2, 3, 1}) + kLargestPixel) / 2).to(at::kInt);
  Tensor bits;
  for (size_t i = 0; i < stages_.size(); ++i) {
    const Stage& stage = stages_[i];
    Tensor product;
    if (i == 0) {
      product = first(stage, pixels);
    } else {
      const Tensor rows = stage.shape.convolution ? windows(bits) : bits.flatten(1);
      if (!stage.shape.last && !stage.shape.convolution) {
        bits = binary_layer(rows, stage.bits, 64 * stage.words, stage.threshold, stage.turned);
        continue;
      }
      product = binary_linear(rows, stage.bits, 64 * stage.words);
    }
    if (stage.shape.last) {
      const Tensor exact = (product - (i == 0 ? 0 : stage.unused)).to(at::kFloat);
      return (exact - stage.mean) * stage.factor + stage.bias;
    }
    bits = next(stage, product);
  }
  return {};
}

void PackedNet::check(const std::string& who) const {
  const PackedNet expected(options_);
  if (!plan_.equal(expected.plan_) || !image_.equal(expected.image_)) {
    fail(ExitCode::input, who, "plan and image must be those of the run's configuration", "others");
  }
  for (size_t i = 0; i < stages_.size(); ++i) {
    const Stage& stage = stages_[i];
    // Packing the unpacked signs gives zeros where no sign is.
    const int64_t group = stage.shape.group;
    const Tensor words = stage.bits.view({-1, words_of(group)});
    if (!sign_pack(sign_unpack(words, group)).equal(words)) {
      fail(ExitCode::input, who, fmt::format("bits of stage {} must be 0 behind the last sign", i), "others");
    }
  }
}

}  // namespace loci
