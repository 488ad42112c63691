#include "loci/models/few_shot_net.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include "loci/base/check.h"
#include "loci/train/precision.h"
#include "tests/op_harness.h"
#include "tests/temporary_folder.h"

// Legend: K ways, n shots, N = K n support images, Q queries, C channels.

namespace loci::few_shot_net_test {
namespace {

using ::testing::HasSubstr;
using torch::Tensor;

constexpr int64_t kWays = 3, kShots = 4, kSupport = kWays * kShots;

FewShotNetOptions small_net(FewShotHead head) {
  return {.head = head, .channels = 6, .groups = 3, .encoder_channels = 3, .inputs = 1, .height = 16, .width = 16};
}

RandomSequence sequence() {
  return RandomSequence(CounterRandom(1, "few shots"));
}

// FiLM away from the identity, so that every parameter has a gradient.
std::shared_ptr<FewShotNet> drawn_net(FewShotHead head) {
  auto net = std::make_shared<FewShotNet>(small_net(head), 1);
  torch::manual_seed(4);
  const torch::NoGradGuard guard;
  for (const auto& parameter : net->named_parameters()) {
    if (parameter.key().starts_with("film")) parameter.value().normal_(0, 0.3);
  }
  return net;
}

struct Images {
  Images() {
    torch::manual_seed(2);
    support = torch::randn({kSupport, 1, 16, 16});
    queries = torch::randn({5, 1, 16, 16});
  }
  Tensor support, queries;
};

// The formulas example by example, in double.
TEST(FewShotNet, MahalanobisLogitsAreThoseOfTheFormula) {
  torch::manual_seed(3);
  for (const int64_t n : {1, 2, 5}) {
    const Tensor y = torch::randn({kWays * n, 4}, torch::kDouble), f = torch::randn({3, 4}, torch::kDouble);
    const auto cov = [](const Tensor& rows) {
      const Tensor mean = rows.sum(0) / rows.size(0);
      Tensor sum = torch::zeros({4, 4}, torch::kDouble);
      for (int64_t i = 0; i < rows.size(0); ++i) sum += torch::outer(rows[i] - mean, rows[i] - mean);
      return sum / std::max<int64_t>(1, rows.size(0) - 1);
    };
    const double l = static_cast<double>(n) / static_cast<double>(n + 1);
    const Tensor got = mahalanobis_logits(y, f, kWays);
    for (int64_t k = 0; k < kWays; ++k) {
      const Tensor own = y.narrow(0, k * n, n);
      const Tensor inverse = torch::inverse(l * cov(own) + (1 - l) * cov(y) + torch::eye(4, torch::kDouble));
      for (int64_t q = 0; q < 3; ++q) {
        const Tensor d = f[q] - own.mean(0);
        EXPECT_NEAR(got[q][k].item<double>(), -d.dot(inverse.mv(d)).item<double>(), 1e-12) << n;
        EXPECT_NEAR(prototypical_logits(y, f, kWays)[q][k].item<double>(), -d.dot(d).item<double>(), 1e-12) << n;
      }
    }
  }
}

TEST(FewShotNet, FilmStartsAsTheIdentityAndThenBendsTheFeatures) {
  const Images images;
  const torch::NoGradGuard guard;
  for (const FewShotHead head : {FewShotHead::prototypical, FewShotHead::mahalanobis}) {
    FewShotNet net(small_net(head), 1);
    const bool film = head == FewShotHead::mahalanobis;
    const auto of_features = film ? mahalanobis_logits : prototypical_logits;
    const auto logits = [&] {
      RandomSequence random = sequence();
      return net.forward(images.support, images.queries, kWays, {.chunk = 4}, random);
    };
    const Tensor expected = of_features(net.features(images.support), net.features(images.queries), kWays);
    EXPECT_TRUE(torch::allclose(logits(), expected, 1e-4, 1e-5));
    if (!film) continue;
    net.named_parameters()["film_bias"].fill_(0.5);
    EXPECT_FALSE(torch::allclose(logits(), expected, 1e-2));
  }
}

TEST(FewShotNet, ValuesDoNotDependOnTheSubsetAndAllRowsHaveTheFullGradient) {
  const Images images;
  for (const FewShotHead head : {FewShotHead::prototypical, FewShotHead::mahalanobis}) {
    const auto net = drawn_net(head);
    const auto run = [&](const SubsetOptions& subset) {
      RandomSequence random = sequence();
      net->zero_grad();
      const Tensor logits = net->forward(images.support, images.queries, kWays, subset, random);
      logits.square().mean().backward();
      std::vector<Tensor> results = {logits.detach()};
      for (const Tensor& parameter : net->parameters()) results.push_back(parameter.grad().clone());
      return results;
    };
    const auto full = run({.kept = kSupport});
    for (const int64_t chunk : {1, 5, 50}) {
      const auto subset = run({.kept = 3, .chunk = chunk});
      EXPECT_TRUE(torch::allclose(subset[0], full[0], 1e-4, 1e-5)) << chunk;
      EXPECT_TRUE(harness::same_bits(run({.kept = kSupport, .chunk = chunk})[1], full[1])) << chunk;
      for (size_t i = 1; i < full.size(); ++i) {
        EXPECT_GT(full[i].abs().max().item<float>(), 0) << i;
        EXPECT_FALSE(torch::allclose(subset[i], full[i], 1e-3)) << i;
      }
    }
    RandomSequence random = sequence();
    const torch::NoGradGuard guard;
    const Tensor without = net->forward(images.support, images.queries, kWays, {.kept = 1, .chunk = 5}, random);
    EXPECT_TRUE(torch::allclose(without, full[0], 1e-4, 1e-5));
    EXPECT_EQ(random.position(), 0U);
  }
}

// Both poolings, the head and FiLM together: the distance of the mean gradient from the full one, in units of its
// Monte-Carlo noise.
TEST(FewShotNet, TheMeanGradientOverDrawsIsTheFullOne) {
  const Images images;
  const auto net = drawn_net(FewShotHead::mahalanobis);
  net->to(torch::kDouble);
  const Tensor support = images.support.to(torch::kDouble), queries = images.queries.to(torch::kDouble);
  const Tensor labels = torch::tensor({0, 1, 2, 0, 1});
  const auto bias = [&](bool scale, int64_t draws) {
    RandomSequence random = sequence();
    const auto gradient = [&](const SubsetOptions& subset) {
      const Tensor loss = torch::cross_entropy_loss(net->forward(support, queries, kWays, subset, random), labels);
      std::vector<Tensor> flat;
      for (const Tensor& part : torch::autograd::grad({loss}, net->parameters())) flat.push_back(part.flatten());
      return torch::cat(flat);
    };
    const Tensor full = gradient({.kept = kSupport});
    std::vector<Tensor> found;
    for (int64_t i = 0; i < draws; ++i) found.push_back(gradient({.kept = 3, .chunk = 20, .scale = scale}));
    const Tensor all = torch::stack(found);
    const double noise = std::sqrt(all.var(0).sum().item<double>() / static_cast<double>(draws));
    return (all.mean(0) - full).norm().item<double>() / noise;
  };
  EXPECT_LT(bias(true, 200), 2);
  EXPECT_GT(bias(false, 200), 2);
}

TEST(FewShotNet, HasTheParametersThatAreCounted) {
  for (const FewShotHead head : {FewShotHead::prototypical, FewShotHead::mahalanobis}) {
    int64_t parameters = 0;
    const FewShotNet net(small_net(head), 1);
    for (const Tensor& parameter : net.parameters()) parameters += parameter.numel();
    EXPECT_EQ(net.options().parameters(), parameters);
  }
  const FewShotNetOptions plain = small_net(FewShotHead::prototypical);
  EXPECT_EQ(plain.multiply_adds(2, 1), 3 * (256 * 9 * 6 + (64 + 16 + 4) * 9 * 36));
}

TEST(FewShotNet, LogitsAreFloat32UnderAutocast) {
  const Images images;
  for (const FewShotHead head : {FewShotHead::prototypical, FewShotHead::mahalanobis}) {
    const auto net = drawn_net(head);
    RandomSequence random = sequence();
    const PrecisionGuard bfloat16(true);
    const Tensor logits = net->forward(images.support, images.queries, kWays, {.kept = 3}, random);
    EXPECT_EQ(logits.scalar_type(), torch::kFloat);
    logits.sum().backward();
    for (const auto& parameter : net->named_parameters()) {
      EXPECT_GT(parameter.value().grad().abs().max().item<float>(), 0) << parameter.key();
    }
  }
}

TEST(FewShotNet, RefusesBadInputInThreeParts) {
  const auto refused = [](const std::string& part, const std::function<void(FewShotNetOptions&)>& change) {
    FewShotNetOptions options = small_net(FewShotHead::mahalanobis);
    change(options);
    expect_error(ExitCode::usage, part, [&] { FewShotNet(options, 1); });
  };
  refused("model.groups must divide model.channels = 7, got 3", [](auto& o) { o.channels = 7; });
  refused("model.groups must divide model.encoder_channels = 4, got 3", [](auto& o) { o.encoder_channels = 4; });
  refused("images must have sides of 16 to 4096 pixels, got 15 x 16", [](auto& o) { o.height = 15; });
  const FewShotNet net(small_net(FewShotHead::prototypical), 1);
  const auto message = [&](int64_t support, int64_t ways, int64_t side) {
    RandomSequence random = sequence();
    return harness::message_of(
        [&] { net.forward(torch::zeros({support, 1, side, side}), torch::zeros({2, 1, 16, 16}), ways, {}, random); });
  };
  EXPECT_THAT(message(4, 1, 16), HasSubstr("FewShotNet: there must be at least 2 classes, got 1"));
  EXPECT_THAT(message(5, 2, 16), HasSubstr("the support must hold as many examples of each of 2 classes, got [5, "));
  EXPECT_THAT(message(4, 2, 20), HasSubstr("FewShotNet: images must be [.., 1, height, width], got support [4, 1, 20"));
}

}  // namespace
}  // namespace loci::few_shot_net_test
