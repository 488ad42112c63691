// Legend: T tokens, d width, V vocabulary.
#include "loci/models/vocabulary_loss.h"

#include <ATen/autocast_mode.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

namespace loci {
namespace {

using at::Tensor;

struct Case {
  Tensor hidden, embedding, target;
};

Case make_case(int64_t tokens, int64_t width, int64_t vocabulary, at::ScalarType type) {
  torch::manual_seed(3);
  const auto options = at::TensorOptions(type);
  Case c{torch::randn({tokens, width}, options), torch::randn({vocabulary, width}, options),
         torch::randint(vocabulary, {tokens}, at::kLong)};
  for (int64_t t = 0; t < tokens; t += 5) c.target[t] = -1;
  return c;
}

Tensor reference(const Case& c) {
  return at::cross_entropy_loss(at::linear(c.hidden, c.embedding), c.target, {}, at::Reduction::Mean, -1);
}

TEST(VocabularyLoss, EqualsCrossEntropyWithGradients) {
  for (const auto& [tokens, vocabulary] : std::vector<std::pair<int64_t, int64_t>>{{7, 3}, {2, 1}, {40, 100000}}) {
    Case ours = make_case(tokens, 5, vocabulary, at::kDouble), theirs = make_case(tokens, 5, vocabulary, at::kDouble);
    for (Case* c : {&ours, &theirs}) c->hidden.requires_grad_(), c->embedding.requires_grad_();
    const Tensor loss = vocabulary_loss(ours.hidden, ours.embedding, ours.target), expected = reference(theirs);
    (loss * 3).backward();
    (expected * 3).backward();
    EXPECT_TRUE(torch::allclose(loss, expected, 1e-12, 1e-12));
    EXPECT_TRUE(torch::allclose(ours.hidden.grad(), theirs.hidden.grad(), 1e-10, 1e-13));
    EXPECT_TRUE(torch::allclose(ours.embedding.grad(), theirs.embedding.grad(), 1e-10, 1e-13));
  }
}

TEST(VocabularyLoss, WithoutGradientGivesTheSameBits) {
  Case c = make_case(300, 8, 5000, at::kFloat);
  const Tensor plain = vocabulary_loss(c.hidden, c.embedding, c.target);
  c.hidden.requires_grad_();
  EXPECT_TRUE(torch::equal(plain, vocabulary_loss(c.hidden, c.embedding, c.target)));
}

TEST(VocabularyLoss, ErrorIsAtMostTwiceThatOfCrossEntropy) {
  const Case c = make_case(500, 32, 4096, at::kFloat);
  const Case exact{c.hidden.to(at::kDouble), c.embedding.to(at::kDouble), c.target};
  const double truth = reference(exact).item<double>();
  const double ours = std::abs(vocabulary_loss(c.hidden, c.embedding, c.target).item<double>() - truth);
  const double theirs = std::abs(reference(c).item<double>() - truth);
  EXPECT_LE(ours, 2 * theirs + truth * 0x1p-23);
}

TEST(VocabularyLoss, WithoutTargetsIsZeroWithZeroGradients) {
  Case c = make_case(4, 3, 6, at::kFloat);
  c.target.fill_(-1);
  c.hidden.requires_grad_();
  const Tensor loss = vocabulary_loss(c.hidden, c.embedding, c.target);
  loss.backward();
  EXPECT_EQ(loss.item<double>(), 0);
  EXPECT_EQ(c.hidden.grad().abs().max().item<double>(), 0);
}

TEST(VocabularyLoss, AutocastMultipliesInBfloat16AndKeepsFloat32Results) {
  Case c = make_case(50, 16, 300, at::kFloat);
  c.hidden.requires_grad_();
  const Tensor plain = vocabulary_loss(c.hidden, c.embedding, c.target);
  at::autocast::set_autocast_enabled(at::kCPU, true);
  at::autocast::set_autocast_dtype(at::kCPU, at::kBFloat16);
  const Tensor low = vocabulary_loss(c.hidden, c.embedding, c.target);
  at::autocast::set_autocast_enabled(at::kCPU, false);
  at::autocast::clear_cache();
  EXPECT_EQ(low.scalar_type(), at::kFloat);
  EXPECT_FALSE(torch::equal(low, plain));
  EXPECT_NEAR(low.item<double>(), plain.item<double>(), 0.02 * plain.item<double>());
  low.backward();
  EXPECT_EQ(c.hidden.grad().scalar_type(), at::kFloat);
}

TEST(VocabularyLoss, BadTargetsAreRefused) {
  const Case c = make_case(4, 3, 6, at::kFloat);
  EXPECT_THROW(vocabulary_loss(c.hidden, c.embedding, at::full({4}, 6, at::kLong)), c10::IndexError);
  EXPECT_THROW(vocabulary_loss(c.hidden, c.embedding, at::full({3}, 1, at::kLong)), c10::Error);
  EXPECT_THROW(vocabulary_loss(c.hidden, c.embedding, at::full({4}, 1, at::kInt)), c10::Error);
}

}  // namespace
}  // namespace loci
