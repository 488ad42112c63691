#include "loci/models/autoencoder.h"

#include <gtest/gtest.h>
#include <torch/autograd.h>
#include <torch/nn/functional.h>
#include <torch/types.h>

#include <map>

#include "loci/base/check.h"
#include "tests/temporary_folder.h"

namespace loci {
namespace {

AutoencoderOptions small_autoencoder() {
  AutoencoderOptions options;
  options.width = 6;
  options.code_width = 4;
  options.memory.rows = 25;
  options.memory.heads = 2;
  options.memory.top_k = 3;
  options.memory.key_width = 8;
  options.quantiser.codes = 9;
  return options;
}

at::Tensor random_images(int64_t count, int64_t edge = 16) {
  torch::manual_seed(1);
  return torch::rand({count, 3, edge, edge});
}

TEST(AutoencoderTest, CountsAreThoseOfTheModel) {
  for (const char* bottleneck : {"plain", "memory", "quantiser"}) {
    AutoencoderOptions options = small_autoencoder();
    options.has_memory = std::string(bottleneck) == "memory";
    options.has_quantiser = std::string(bottleneck) == "quantiser";
    Autoencoder model(options, 1);
    int64_t dense = 0;
    for (const NamedParameter& parameter : model.dense_parameters()) dense += parameter.value.numel();
    EXPECT_EQ(options.parameters().first, dense) << bottleneck;
    EXPECT_EQ(options.parameters().second, options.has_memory ? 25 * 4 : 0);
  }
  // The plain network of the defaults on 32x32x3: 16 x 16 positions of 48 x 64 weights, and so on; by hand.
  const AutoencoderOptions plain;
  EXPECT_EQ(plain.multiply_adds(32, 32), 256 * 48 * 64 + 64 * 1024 * 128 + 16 * 2048 * 128 + 16 * 128 * 64 +
                                             64 * 4 * 64 * 128 + 256 * 4 * 128 * 64 + 1024 * 4 * 64 * 3);
}

// The whole network from the framework's functions.
TEST(AutoencoderTest, ForwardIsTheFormula) {
  AutoencoderOptions options = small_autoencoder();
  Autoencoder model(options, 1);
  const auto images = random_images(5);
  std::map<std::string, at::Tensor> p;
  for (const auto& parameter : model.named_parameters()) p[parameter.key()] = parameter.value();
  namespace F = torch::nn::functional;
  const auto norm = [&](const at::Tensor& x, const std::string& name) {
    const auto mean = x.mean({0, 2, 3}, true), variance = x.var({0, 2, 3}, false, true);
    const auto of = [&](const char* what) { return p.at(name + what).view({1, -1, 1, 1}); };
    return ((x - mean) / (variance + 1e-5).sqrt() * of(".gain") + of(".bias")).relu();
  };
  at::Tensor x = images;
  for (const std::string name : {"encoder1", "encoder2", "encoder3"}) {
    x = norm(F::conv2d(x, p.at(name + ".weight"), F::Conv2dFuncOptions().stride(2).padding(1)), name);
  }
  EXPECT_EQ(x.sizes(), (std::vector<int64_t>{5, 12, 2, 2}));
  x = F::conv2d(x, p.at("code.weight"), F::Conv2dFuncOptions().bias(p.at("code.bias")));
  for (const std::string name : {"decoder1", "decoder2"}) {
    x = norm(F::conv_transpose2d(x, p.at(name + ".weight"), F::ConvTranspose2dFuncOptions().stride(2).padding(1)),
             name);
  }
  x = F::conv_transpose2d(x, p.at("decoder3.weight"),
                          F::ConvTranspose2dFuncOptions().stride(2).padding(1).bias(p.at("decoder3.bias")));
  const Reconstruction found = model.forward(images);
  EXPECT_TRUE(torch::allclose(found.images, x, 1e-4, 1e-5));
  EXPECT_FALSE(found.loss.defined());
}

TEST(AutoencoderTest, EveryParameterOfEveryBottleneckGetsAGradient) {
  for (const char* bottleneck : {"plain", "memory", "quantiser"}) {
    AutoencoderOptions options = small_autoencoder();
    options.has_memory = std::string(bottleneck) == "memory";
    options.has_quantiser = std::string(bottleneck) == "quantiser";
    Autoencoder model(options, 1);
    const Reconstruction found = model.forward(random_images(5));
    EXPECT_EQ(found.loss.defined(), options.has_quantiser);
    at::Tensor loss = found.images.square().mean();
    if (found.loss.defined()) loss = loss + found.loss;
    loss.backward();
    for (const NamedParameter& parameter : model.dense_parameters()) {
      ASSERT_TRUE(parameter.value.grad().defined()) << bottleneck << " " << parameter.name;
      EXPECT_GT(parameter.value.grad().abs().max().item<double>(), 0) << bottleneck << " " << parameter.name;
    }
    EXPECT_EQ(model.memory() != nullptr, options.has_memory);
    if (options.has_quantiser) {
      EXPECT_EQ(found.index.numel(), 5 * 2 * 2);
    }
  }
}

// Every position's code is one of the codes: positions that read the same have the same code.
TEST(AutoencoderTest, PositionsOfAQuantiserAreHeightFirst) {
  AutoencoderOptions options = small_autoencoder();
  options.has_quantiser = true;
  Autoencoder model(options, 1);
  model.eval();
  const auto one = model.forward(random_images(3)).index, first = model.forward(random_images(3).slice(0, 0, 1)).index;
  EXPECT_TRUE(one.slice(0, 0, 4).equal(first));
  // A map that is wider than high keeps its sides.
  const auto wide = torch::rand({2, 3, 16, 24});
  EXPECT_EQ(model.forward(wide).images.sizes(), wide.sizes());
}

TEST(AutoencoderTest, FrozenKeysAreNotTrained) {
  AutoencoderOptions options = small_autoencoder();
  options.has_memory = options.memory.frozen_keys = true;
  Autoencoder model(options, 1);
  for (const NamedParameter& parameter : model.dense_parameters()) {
    EXPECT_EQ(parameter.name.find("keys"), std::string::npos) << parameter.name;
  }
}

TEST(AutoencoderTest, RefusesWhatDoesNotFit) {
  AutoencoderOptions options = small_autoencoder();
  options.has_memory = options.has_quantiser = true;
  expect_error(ExitCode::usage, "there must be one bottleneck, [model.memory] or [model.quantiser], got both",
               [&] { options.check(); });
  options.has_quantiser = false;
  options.memory.top_k = 26;
  expect_error(ExitCode::usage, "memory.top_k must be at most memory.rows = 25, got 26", [&] { options.check(); });
  Autoencoder model(small_autoencoder(), 1);
  try {
    model.forward(random_images(1, 12));
    ADD_FAILURE();
  } catch (const c10::Error& error) {
    EXPECT_STREQ(error.what_without_backtrace(),
                 "Autoencoder: images must be [B, 3, height, width] with multiples of 8, got [1, 3, 12, 12]");
  }
}

}  // namespace
}  // namespace loci
