#include "loci/models/pair_net.h"

#include <ATen/Parallel.h>
#include <ATen/autocast_mode.h>
#include <gtest/gtest.h>
#include <torch/nn/functional.h>
#include <torch/types.h>

#include <cmath>
#include <map>

#include "loci/data/procedural/pair_shapes.h"
#include "loci/nn/relation/non_local.h"
#include "tests/module_state.h"
#include "tests/temporary_folder.h"

namespace loci {
namespace {

constexpr PairMiddle kMiddles[] = {PairMiddle::none, PairMiddle::residual, PairMiddle::uniform, PairMiddle::non_local};

// On one thread: small maps gain nothing from more.
class PairNetTest : public testing::Test {
 protected:
  PairNetTest() : threads_before_(at::get_num_threads()) { at::set_num_threads(1); }
  ~PairNetTest() override { at::set_num_threads(threads_before_); }

 private:
  int threads_before_;
};

PairNetOptions small_pair_net(PairMiddle middle, int64_t frames = 1) {
  PairNetOptions options;
  options.width = 6;
  options.residual_width = 10;
  options.inner = 4;
  options.non_local.inner = 4;
  options.middle = middle;
  options.frames = frames;
  return options;
}

at::Tensor random_samples(int64_t count, int64_t frames) {
  torch::manual_seed(1);
  return torch::randn({count, frames, 32, 32});
}

// In double, in evaluation mode, with gains and biases of 1 and 0 no more. The norms have seen samples, so that each
// ReLU is open for some inputs and closed for others.
std::unique_ptr<PairNet> random_pair_net(const PairNetOptions& options) {
  auto model = std::make_unique<PairNet>(options, 1);
  const torch::NoGradGuard guard;
  torch::manual_seed(2);
  for (auto& parameter : model->named_parameters()) {
    if (parameter.key().ends_with("gain")) parameter.value().uniform_(0.5, 1.5);
    if (parameter.key().ends_with("bias")) parameter.value().normal_(0, 0.1);
  }
  const PairShapes shapes({.frames = options.frames}, 5, "norms");
  at::Tensor frames = torch::empty({8, options.frames, 32, 32}), labels = torch::empty({8}, at::kLong);
  for (int64_t i = 0; i < 30; ++i) {
    shapes.fill(8 * i, 8, frames.mutable_data_ptr<float>(), labels.mutable_data_ptr<int64_t>());
    model->forward(frames);
  }
  model->to(at::kDouble);
  model->eval();
  return model;
}

TEST_F(PairNetTest, CountsAreThoseOfTheModel) {
  for (const PairMiddle middle : kMiddles) {
    for (const int64_t frames : {1, 4}) {
      PairNet model(small_pair_net(middle, frames), 1);
      int64_t dense = 0;
      for (const NamedParameter& parameter : model.dense_parameters()) dense += parameter.value.numel();
      EXPECT_EQ(model.options().parameters(), dense);
      EXPECT_EQ(model.forward(random_samples(3, frames)).sizes(), (std::vector<int64_t>{3, 2}));
      EXPECT_EQ(model.forward(random_samples(1, frames)).sizes(), (std::vector<int64_t>{1, 2}));
    }
  }
  PairNetOptions options;
  const int64_t of_trunk = 256 * (25 * 32 + 9 * 32 * 32 + 32 * 32) + 32 * 2;
  EXPECT_EQ(options.multiply_adds(), of_trunk);
  options.middle = PairMiddle::residual;
  EXPECT_EQ(options.multiply_adds(), of_trunk + 256 * 10 * 32 * 64);
  options.frames = 4;
  EXPECT_EQ(options.multiply_adds(), 4 * (of_trunk - 64) + 64 + 4 * 256 * 28 * 32 * 64);
  options.middle = PairMiddle::uniform;
  EXPECT_EQ(options.multiply_adds(), 4 * (of_trunk - 64) + 64 + 2 * 32 * 16);
  EXPECT_EQ(options.kept_numbers(), 4 * 256 * (4 + 7 * 32));
  options.middle = PairMiddle::non_local;  // 2 x 2 pooled
  EXPECT_EQ(options.multiply_adds(), 4 * (of_trunk - 64) + 64 + 4 * (256 * 2 + 64 * 2) * 32 * 16 + 4 * 256 * 256 * 32);
  options.frames = 1;
  options.non_local.form = PairForm::dot;
  EXPECT_EQ(options.multiply_adds(), of_trunk + (256 * 2 + 64 * 2) * 32 * 16 + 256 * 64 * 32);
  EXPECT_EQ(options.parameters(), 11'298 + 2'192);
}

TEST_F(PairNetTest, ForwardIsTheFormula) {
  namespace F = torch::nn::functional;
  for (const PairMiddle middle : kMiddles) {
    for (const int64_t T : {1, 4}) {
      const auto model = random_pair_net(small_pair_net(middle, T));
      const std::map<std::string, at::Tensor> p = state_of(*model);
      // Always in three dimensions: kernels of images get a first dimension of 1.
      const auto layer = [&](const at::Tensor& x, const std::string& name, int64_t stride) {
        at::Tensor weight = p.at(name + ".weight");
        if (weight.dim() == 4) weight = weight.unsqueeze(2);
        const at::Tensor y = F::conv3d(x, weight,
                                       F::Conv3dFuncOptions()
                                           .stride({1, stride, stride})
                                           .padding({weight.size(2) / 2, weight.size(3) / 2, weight.size(4) / 2}));
        const auto of = [&](const char* what) { return p.at(name + what).view({-1, 1, 1, 1}); };
        return (y - of(".running_mean")) / (of(".running_variance") + 1e-5).sqrt() * of(".gain") + of(".bias");
      };
      const at::Tensor frames = random_samples(3, T).to(at::kDouble);
      at::Tensor x = layer(layer(frames.unsqueeze(1), "conv1", 2).relu(), "conv2", 1).relu();
      ASSERT_EQ(x.sizes(), (std::vector<int64_t>{3, 6, T, 16, 16}));
      if (middle == PairMiddle::residual) x = x + layer(layer(x, "residual1", 1).relu(), "residual2", 1);
      if (middle == PairMiddle::uniform) {
        const at::Tensor g =
            at::einsum("ic,bcthw->bithw", {p.at("uniform.g_weight"), x}) + p.at("uniform.g_bias").view({-1, 1, 1, 1});
        const at::Tensor y = at::einsum("ci,bi->bc", {p.at("uniform.output_weight"), g.mean({2, 3, 4})});
        const at::Tensor message = (y - p.at("uniform.running_mean")) /
                                       (p.at("uniform.running_variance") + 1e-5).sqrt() * p.at("uniform.gain") +
                                   p.at("uniform.bias");
        x = x + message.view({3, 6, 1, 1, 1});
      }
      if (middle == PairMiddle::non_local) {
        auto& block = *model->named_children()["non_local"]->as<NonLocal>();
        x = (T > 1 ? block.forward(x) : block.forward(x.squeeze(2)).unsqueeze(2));
      }
      x = layer(x, "conv3", 1).relu().mean({2, 3, 4});
      const at::Tensor expected = at::linear(x, p.at("linear_weight"), p.at("linear_bias"));
      EXPECT_LT((model->forward(frames) - expected).abs().max().item<double>(), 1e-12);
    }
  }
}

TEST_F(PairNetTest, AllMiddlesStartAsTheSameFunctionAndMove) {
  const at::Tensor frames = random_samples(5, 4);
  PairNet none(small_pair_net(PairMiddle::none, 4), 1);
  for (const PairMiddle middle : kMiddles) {
    PairNet model(small_pair_net(middle, 4), 1);
    EXPECT_TRUE(torch::equal(model.forward(frames), none.forward(frames)));
    model.zero_grad();
    const torch::NoGradGuard guard;
    for (auto& parameter : model.named_parameters()) {
      if (parameter.key().ends_with("gain")) parameter.value().fill_(1);
    }
    const at::AutoGradMode enabled(true);
    model.forward(frames).square().sum().backward();
    for (const NamedParameter& parameter : model.dense_parameters()) {
      ASSERT_TRUE(parameter.value.grad().defined()) << parameter.name;
      // A softmax takes away what is the same for all keys, and a norm what is the same for all positions.
      if (!parameter.name.ends_with("phi_bias") && !parameter.name.ends_with("output_bias")) {
        EXPECT_GT(parameter.value.grad().abs().max().item<double>(), 0) << parameter.name;
      }
      EXPECT_EQ(parameter.decay, parameter.name.ends_with("weight")) << parameter.name;
    }
  }
}

// Changes the patterns of samples, all else as it is, and compares logits l(a, b). They are a sum u(a) + u'(b) if
// l(a, b) - l(a, b') - l(a', b) + l(a', b') is 0; then nothing is better than chance (recipes/non-local-forms).
struct PatternEffects {
  double of_a = 0, of_b = 0, of_both = 0;  // the largest differences; of_both: of that sum from 0
};
PatternEffects pattern_effects(PairNet& model, const PairShapesOptions& data) {
  const PairShapes shapes(data, 3, "effects");
  PatternEffects effects;
  const auto raise = [](double& largest, const at::Tensor& difference) {
    largest = std::max(largest, difference.abs().max().item<double>());
  };
  for (int64_t sample = 0; sample < 6; ++sample) {
    PairLayout layout = shapes.layout(sample);
    at::Tensor frames = torch::empty({4, data.frames, 32, 32});
    for (int64_t i = 0; i < 4; ++i) {
      layout.a = i / 2;
      layout.b = 2 + i % 2;
      shapes.draw(layout, sample, frames[i].mutable_data_ptr<float>());
    }
    const torch::NoGradGuard guard;
    const at::Tensor l = model.forward(frames.to(at::kDouble));
    raise(effects.of_a, l[0] - l[2]);
    raise(effects.of_b, l[0] - l[1]);
    raise(effects.of_both, l[0] - l[1] - l[2] + l[3]);
  }
  return effects;
}

void expect_related(PairNet& model, const PairShapesOptions& data, bool related) {
  const PatternEffects effects = pattern_effects(model, data);
  EXPECT_GT(std::min(effects.of_a, effects.of_b), 1e-3) << "patterns must have an effect";
  if (related) {
    EXPECT_GT(effects.of_both, 1e-4) << data.text();
  } else {
    EXPECT_LT(effects.of_both, 1e-13) << data.text();
  }
}

constexpr PairVariant kVariants[] = {PairVariant::cross, PairVariant::space, PairVariant::time};

TEST_F(PairNetTest, NoWindowRelatesTwoPatterns) {
  for (const PairMiddle middle : {PairMiddle::none, PairMiddle::residual}) {
    expect_related(*random_pair_net(small_pair_net(middle)), {}, false);
    for (const int64_t T : {4, 8}) {
      const auto model = random_pair_net(small_pair_net(middle, T));
      for (const PairVariant variant : kVariants) expect_related(*model, {.frames = T, .variant = variant}, false);
    }
  }
}

TEST_F(PairNetTest, OneMessageForAllRelatesThem) {
  expect_related(*random_pair_net(small_pair_net(PairMiddle::uniform)), {}, true);
  const auto model = random_pair_net(small_pair_net(PairMiddle::uniform, 4));
  for (const PairVariant variant : kVariants) expect_related(*model, {.frames = 4, .variant = variant}, true);
}

// The cells of recipes/non-local-domains: what a block relates over space, over time, or over both.
TEST_F(PairNetTest, ADomainRelatesWhatItSpans) {
  struct Case {
    PairDomain domain;
    bool cross, space, time;
  };
  for (const Case& c : {Case{PairDomain::space, false, true, false}, Case{PairDomain::time, false, false, true},
                        Case{PairDomain::spacetime, true, true, true}}) {
    PairNetOptions options = small_pair_net(PairMiddle::non_local, 4);
    options.non_local.domain = c.domain;
    if (c.domain == PairDomain::time) options.non_local.pool = PairPool::none;
    const auto model = random_pair_net(options);
    expect_related(*model, {.frames = 4, .variant = PairVariant::cross}, c.cross);
    expect_related(*model, {.frames = 4, .variant = PairVariant::space}, c.space);
    expect_related(*model, {.frames = 4, .variant = PairVariant::time}, c.time);
  }
}

TEST_F(PairNetTest, EveryFormRelatesDistantPatterns) {
  for (const PairForm form : {PairForm::gaussian, PairForm::embedded, PairForm::dot, PairForm::concat}) {
    PairNetOptions options = small_pair_net(PairMiddle::non_local);
    options.non_local.form = form;
    expect_related(*random_pair_net(options), {}, true);
  }
}

// A block knows no order. With the trunk frame by frame and no pooling over time neither does the network, except that
// `residual` does.
TEST_F(PairNetTest, TheOrderOfFramesDoesNotMatter) {
  const at::Tensor frames = random_samples(2, 4).to(at::kDouble);
  const at::Tensor order = torch::tensor({2, 0, 3, 1});
  const torch::NoGradGuard guard;
  const auto change = [&](const PairNetOptions& options) {
    const auto model = random_pair_net(options);
    return (model->forward(frames) - model->forward(frames.index_select(1, order))).abs().max().item<double>();
  };
  for (const PairDomain domain : {PairDomain::spacetime, PairDomain::space, PairDomain::time}) {
    PairNetOptions options = small_pair_net(PairMiddle::non_local, 4);
    options.non_local.domain = domain;
    if (domain == PairDomain::time) options.non_local.pool = PairPool::none;
    EXPECT_LT(change(options), 1e-12);
  }
  EXPECT_GT(change(small_pair_net(PairMiddle::residual, 4)), 1e-3);
}

TEST_F(PairNetTest, BlocksMustFitTheMap) {
  PairNetOptions options = small_pair_net(PairMiddle::non_local);
  options.non_local.domain = PairDomain::time;
  expect_error(ExitCode::usage, "domains space, time and groups need maps with frames", [&] { options.check(); });
  options = small_pair_net(PairMiddle::non_local, 8);
  options.non_local.domain = PairDomain::groups;
  options.non_local.group = 3;
  expect_error(ExitCode::usage, "frames must be a multiple of the window's 3, got 8", [&] { PairNet(options, 1); });
}

TEST_F(PairNetTest, RunsUnderAutocast) {
  PairNet model(small_pair_net(PairMiddle::residual, 4), 1);
  at::autocast::set_autocast_dtype(at::kCPU, at::kBFloat16);
  at::autocast::set_autocast_enabled(at::kCPU, true);
  const at::Tensor logits = model.forward(random_samples(4, 4));
  at::autocast::set_autocast_enabled(at::kCPU, false);
  at::autocast::clear_cache();
  EXPECT_EQ(logits.scalar_type(), at::kFloat);
}

TEST_F(PairNetTest, FramesHaveTheirSize) {
  PairNet model(small_pair_net(PairMiddle::none, 4), 1);
  EXPECT_THROW(model.forward(random_samples(2, 1)), c10::Error);
}

}  // namespace
}  // namespace loci
