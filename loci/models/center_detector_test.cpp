#include "loci/models/center_detector.h"

#include <gmock/gmock.h>
#include <torch/torch.h>

#include <cmath>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "loci/base/check.h"
#include "loci/data/detection/average_precision.h"
#include "loci/data/procedural/shapes_keypoints.h"
#include "loci/nn/relation/non_local.h"
#include "tests/module_state.h"
#include "tests/temporary_folder.h"

namespace loci::center_detector_test {
namespace {

using torch::Tensor;

CenterDetectorOptions small_detector() {
  CenterDetectorOptions options;
  options.body.width = 4;
  options.pyramid_width = 6;
  return options;
}

CenterDetectorOptions relating_detector() {
  CenterDetectorOptions options = small_detector();
  options.body.has_non_local = true;
  options.has_head_non_local = true;
  options.body.extra_blocks = {0, 0, 1, 0};
  return options;
}

std::vector<std::vector<Instance>> drawn_instances(int64_t images) {
  const ShapesKeypoints shapes({}, 4, "center_detector_test");
  std::vector<uint8_t> pixels(static_cast<size_t>(3 * ShapesOptions::pixels()));
  std::vector<std::vector<Instance>> result;
  for (int64_t i = 0; i < images; ++i) result.push_back(shapes.draw(i, pixels.data()));
  return result;
}

CenterOutputs random_outputs(int64_t images) {
  return {torch::randn({images, 3, 32, 32}), torch::randn({images, 2, 32, 32}),   torch::randn({images, 2, 32, 32}),
          torch::randn({images, 8, 32, 32}), torch::randn({images, 1, 128, 128}), torch::randn({images, 2, 128, 128})};
}

TEST(CenterDetector, CountsThoseOfTheNetwork) {
  for (const CenterDetectorOptions& options : {small_detector(), relating_detector()}) {
    int64_t numbers = 0;
    for (const auto& parameter : CenterDetector(options, 0).parameters()) numbers += parameter.numel();
    EXPECT_EQ(options.parameters(), numbers);
  }
  // F = 6 on maps of 32, 16, 8 and 4 with 4, 8, 16 and 32 channels; heads of 7, 8 and 3 outputs.
  const CenterDetectorOptions options = small_detector();
  const int64_t pyramid = 1024 * (4 * 6 + 324) + 256 * (8 * 6 + 324) + 64 * (16 * 6 + 324) + 16 * (32 * 6 + 324);
  EXPECT_EQ(options.multiply_adds() - image_resnet_multiply_adds(options.body, 128, 128),
            pyramid + 1024 * (3 * 324 + 18 * 6));
  CenterDetectorOptions head = options;
  head.has_head_non_local = true;
  // 1024 queries and, pooled, 256 keys of 3 inner channels.
  EXPECT_EQ(head.multiply_adds() - options.multiply_adds(), 1024 * 18 * 2 + 256 * 18 * 2 + 2 * 1024 * 256 * 3);
  EXPECT_GT(head.kept_numbers(), options.kept_numbers());
}

TEST(CenterDetector, ThePyramidIsItsFormula) {
  const torch::NoGradGuard guard;
  ImageResnetOptions body;
  body.width = 4;
  FeaturePyramid pyramid(body, 5, 3);
  pyramid.eval();
  const auto state = copied_state(pyramid);
  const Tensor x = torch::randn({2, 3, 96, 72});
  const std::vector<Tensor> got = pyramid.forward(x), stages = pyramid.body().stages(x);
  Tensor above;
  for (int64_t i = 3; i >= 0; --i) {
    const auto convolved = [&](const char* list, const Tensor& map, int64_t padding) {
      const std::string name = fmt::format("fpn.{}.{}.0.", list, i);
      return torch::conv2d(map, state.at(name + "weight"), state.at(name + "bias"), 1, padding);
    };
    Tensor inner = convolved("inner_blocks", stages[static_cast<size_t>(i)], 0);
    if (above.defined()) {
      const int64_t h = inner.size(2), w = inner.size(3);
      const Tensor rows = torch::arange(h) * above.size(2) / h, columns = torch::arange(w) * above.size(3) / w;
      inner = inner +
              above.index_select(2, rows.floor().to(torch::kLong)).index_select(3, columns.floor().to(torch::kLong));
    }
    EXPECT_TRUE(torch::allclose(got[static_cast<size_t>(i)], convolved("layer_blocks", inner, 1), 1e-4, 1e-5)) << i;
    above = inner;
  }
  EXPECT_EQ(got[0].sizes().vec(), (std::vector<int64_t>{2, 5, 24, 18}));
}

// One instance: box 20 to 40 by 30 to 74, so centre (30, 52), cell (row 13, column 7), offsets 0.5 and 0.
TEST(CenterDetector, TargetsAreThoseOfTheFormulas) {
  Instance instance;
  instance.label = 1;
  instance.box = {20, 30, 40, 74};
  instance.keypoints = {{{20, 30}, {40, 30}, {30, 74}, {28, 52}}};
  instance.mask = PixelMask(128 * 128);
  instance.mask.add(31 * 128 + 22);
  const CenterTargets t = center_targets({{}, {instance}}, small_detector());
  EXPECT_TRUE(torch::equal(t.cell, torch::tensor({{int64_t{1}, int64_t{13}, int64_t{7}}})));
  EXPECT_TRUE(torch::equal(t.size, torch::tensor({{5.F, 11.F}})));
  EXPECT_TRUE(torch::equal(t.offset, torch::tensor({{0.5F, 0.F}})));
  EXPECT_TRUE(torch::equal(t.points, torch::tensor({{-2.F, -5.5F, 3.F, -5.5F, 0.5F, 5.5F, 0.F, 0.F}})));
  EXPECT_EQ(t.heat.sum().item<float>(), t.heat[1][1].sum().item<float>());
  EXPECT_EQ(t.heat[1][1][13][7].item<float>(), 1);
  const double s = std::sqrt(20.0 * 44) / 36;
  EXPECT_NEAR(t.heat[1][1][14][5].item<double>(), std::exp(-5 / (2 * s * s)), 1e-7);
  EXPECT_EQ(t.mask.sum().item<float>(), 1);
  EXPECT_EQ(t.mask[1][0][31][22].item<float>(), 1);
  EXPECT_EQ(t.vote[1][0][31][22].item<float>(), (30 - 22.5F) / 4);
  EXPECT_EQ(t.vote[1][1][31][22].item<float>(), (52 - 31.5F) / 4);
}

// In loops and double.
double slow_loss(const CenterOutputs& o, const CenterTargets& t) {
  const auto number = [](const Tensor& x) { return x.item<double>(); };
  double heat = 0, parts = 0, mask = 0, votes = 0, pixels = 0;
  const Tensor logits = o.heat.contiguous().view({-1}), wanted = t.heat.view({-1});
  for (int64_t i = 0; i < logits.numel(); ++i) {
    const double q = 1 / (1 + std::exp(-number(logits[i]))), y = number(wanted[i]);
    heat -= y == 1 ? (1 - q) * (1 - q) * std::log(q) : std::pow(1 - y, 4) * q * q * std::log(1 - q);
  }
  for (int64_t i = 0; i < t.cell.size(0); ++i) {
    const auto at = [&](const Tensor& x, int64_t c) {
      return number(x[t.cell[i][0].item<int64_t>()][c][t.cell[i][1].item<int64_t>()][t.cell[i][2].item<int64_t>()]);
    };
    for (int64_t c = 0; c < 2; ++c) {
      parts += 0.1 * std::abs(at(o.size, c) - number(t.size[i][c]));
      parts += std::abs(at(o.offset, c) - number(t.offset[i][c]));
    }
    for (int64_t c = 0; c < 8; ++c) parts += 0.1 * std::abs(at(o.points, c) - number(t.points[i][c]));
  }
  const Tensor masks = o.mask.contiguous().view({-1}), inside = t.mask.contiguous().view({-1});
  const Tensor got = o.vote.permute({0, 2, 3, 1}).reshape({-1, 2}), to = t.vote.permute({0, 2, 3, 1}).reshape({-1, 2});
  for (int64_t i = 0; i < masks.numel(); ++i) {
    const double q = 1 / (1 + std::exp(-number(masks[i])));
    if (number(inside[i]) == 0) {
      mask -= std::log(1 - q);
      continue;
    }
    mask -= std::log(q);
    votes += number((got[i] - to[i]).abs().sum());
    ++pixels;
  }
  const double n = std::max<double>(1, static_cast<double>(t.cell.size(0)));
  return (heat + parts) / n + mask / static_cast<double>(masks.numel()) + 0.1 * votes / std::max(pixels, 1.0);
}

TEST(CenterDetector, TheLossIsItsDefinition) {
  torch::manual_seed(1);
  const CenterOutputs outputs = random_outputs(1);
  for (const auto& instances : {drawn_instances(1), std::vector<std::vector<Instance>>(1)}) {
    const CenterTargets targets = center_targets(instances, small_detector());
    const double expected = slow_loss(outputs, targets);
    EXPECT_NEAR(center_loss(outputs, targets).item<double>(), expected, 1e-5 * expected);
  }
}

// Outputs that say what the targets want are answered with the instances.
TEST(CenterDetector, AnswersAreWhatTheOutputsSay) {
  const auto instances = drawn_instances(6);
  const CenterTargets t = center_targets(instances, small_detector());
  CenterOutputs o = random_outputs(6);
  o.heat = (t.heat - 0.9) * 20;
  const auto put = [&](const Tensor& x, const Tensor& values) {
    x.permute({0, 2, 3, 1}).index_put_({t.cell.select(1, 0), t.cell.select(1, 1), t.cell.select(1, 2)}, values);
  };
  put(o.size, t.size);
  put(o.offset, t.offset);
  put(o.points, t.points);
  o.mask = t.mask * 2 - 1;
  o.vote = t.vote;
  const auto found = center_detections(o);
  std::vector<DetectedImage> answers;
  for (size_t i = 0; i < instances.size(); ++i) {
    answers.push_back({instances[i], found[i]});
    ASSERT_GE(found[i].size(), instances[i].size());
    EXPECT_LE(found[i].size(), 20u);
    for (size_t k = 1; k < found[i].size(); ++k) EXPECT_LE(found[i][k].score, found[i][k - 1].score);
    for (const Instance& truth : instances[i]) {
      double best = 0;
      for (const Detection& d : found[i]) {
        if (d.score > 0.5 && d.instance.label == truth.label) {
          best = std::max(best,
                          std::min({box_overlap(d.instance.box, truth.box), mask_overlap(d.instance.mask, truth.mask),
                                    keypoint_similarity(d.instance, truth)}));
        }
      }
      EXPECT_GT(best, 0.999);
    }
  }
  for (const Similarity kind : {Similarity::box, Similarity::mask, Similarity::keypoints}) {
    EXPECT_EQ(average_precision(answers, kind, 3).mean, 1);
  }
}

TEST(CenterDetector, EveryParameterGetsAGradient) {
  CenterDetector model(relating_detector(), 1);
  // Blocks start with a scale of 0, which keeps gradients from what is before it.
  for (const auto& [name, block] : model.non_local()) torch::nn::init::ones_(block->norm.gain);
  const auto instances = drawn_instances(2);
  center_loss(model.forward(torch::randn({2, 3, 128, 128})), center_targets(instances, model.options())).backward();
  for (const auto& parameter : model.named_parameters()) {
    ASSERT_TRUE(parameter->grad().defined()) << parameter.key();
    // A constant before a norm or a softmax over keys changes nothing.
    const bool is_shift = parameter.key().ends_with("output_bias") || parameter.key().ends_with("phi_bias") ||
                          parameter.key().ends_with("g_bias");
    const float sum = parameter->grad().abs().sum().item<float>();
    EXPECT_TRUE(is_shift || sum > 0) << parameter.key();
  }
}

TEST(CenterDetector, GoesOnFromPlainWeightsAndFromABackbone) {
  const Tensor x = torch::randn({2, 3, 128, 128});
  CenterDetector plain(small_detector(), 1);
  plain.eval();
  auto state = copied_state(plain);
  CenterDetector model(relating_detector(), 2);
  model.load(state, "weights");
  model.eval();
  EXPECT_TRUE(torch::equal(model.forward(x).points, plain.forward(x).points)) << "blocks and extra blocks add nothing";
  EXPECT_TRUE(torch::equal(model.forward(x).heat, plain.forward(x).heat));

  std::erase_if(state, [](const auto& entry) { return entry.first.starts_with("head."); });
  CenterDetector other(small_detector(), 5);
  other.load(state, "weights");
  EXPECT_TRUE(torch::equal(copied_state(other).at("backbone.fpn.layer_blocks.2.0.weight"),
                           state.at("backbone.fpn.layer_blocks.2.0.weight")));
  const std::string lateral = "backbone.fpn.inner_blocks.1.0.bias";
  state.erase(lateral);
  expect_error(ExitCode::input, "weights: " + lateral + " must be given",
               [&] { CenterDetector(small_detector(), 0).load(state, "weights"); });
  std::erase_if(state, [](const auto& entry) { return entry.first.starts_with("backbone.fpn."); });
  other.load(state, "weights");
  state.erase("backbone.body.layer2.0.conv1.weight");
  expect_error(ExitCode::input, "backbone.body.layer2.0.conv1.weight must be given",
               [&] { other.load(state, "weights"); });
}

TEST(CenterDetector, RefusesOptions) {
  const auto refused = [](const std::string& words, const std::function<void(CenterDetectorOptions&)>& change) {
    CenterDetectorOptions options = relating_detector();
    change(options);
    expect_error(ExitCode::usage, words, [&] { CenterDetector(options, 0); });
  };
  refused("depth must be", [](auto& o) { o.body.depth = 22; });
  refused("pyramid_width must be within 1 .. 4096, got 0", [](auto& o) { o.pyramid_width = 0; });
  refused("pool_kernel", [](auto& o) { o.head_non_local.pool_kernel = {2, 2, 2}; });
}

}  // namespace
}  // namespace loci::center_detector_test
