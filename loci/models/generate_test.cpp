#include "loci/models/generate.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cmath>

#include "loci/base/check.h"
#include "tests/small_model.h"

namespace loci {
namespace {

using at::Tensor;

std::vector<int64_t> generated(TransformerLm& model, const std::vector<int64_t>& prompt, GenerateOptions options) {
  std::vector<int64_t> result;
  generate(model, prompt, options, [&](int64_t token) {
    result.push_back(token);
    return true;
  });
  return result;
}

TEST(Generate, GreedyTextIsThatOfFullForwardsInEvaluation) {
  TransformerLm model(small_model_with_memory(MemoryPlacement::parallel, [](auto& o) { o.dropout = 0.5; }), 1);
  model.to(at::kDouble);
  const auto text = generated(model, {3, 5}, {.tokens = 10, .temperature = 0, .top_k = 0, .seed = 0});
  EXPECT_TRUE(model.is_training());
  std::vector<int64_t> all = {3, 5};
  model.eval();
  for (const int64_t token : text) {
    const Tensor logits = model.forward(at::tensor(all, at::kLong).unsqueeze(0));
    EXPECT_EQ(token, logits[0][-1].argmax().item<int64_t>());
    all.push_back(token);
  }
}

TEST(Generate, BeyondTheContextTheLastHalfIsReadAgain) {
  TransformerLm model(small_model_with_memory(MemoryPlacement::parallel), 1);
  model.to(at::kDouble);
  std::vector<int64_t> prompt;
  for (int64_t i = 0; i < 30; ++i) prompt.push_back(i % 23);
  const auto text = generated(model, prompt, {.tokens = 20, .temperature = 0, .top_k = 0, .seed = 0});
  ASSERT_EQ(text.size(), 20u);
  // The first new token sees the last 12; the second the last 6 (11 + 2 would not fit), and so on up to 12 again.
  std::vector<int64_t> all = prompt;
  int64_t seen = 12;
  for (const int64_t token : text) {
    const std::vector<int64_t> window(all.end() - seen, all.end());
    const Tensor logits = model.forward(at::tensor(window, at::kLong).unsqueeze(0));
    EXPECT_EQ(token, logits[0][-1].argmax().item<int64_t>());
    all.push_back(token);
    seen = seen == 12 ? 6 : seen + 1;
  }
}

TEST(Generate, TheSameSeedGivesTheSameTextAndTheCallbackMayEndIt) {
  TransformerLm model(small_model_with_memory(MemoryPlacement::parallel), 1);
  const GenerateOptions options{.tokens = 30, .temperature = 1, .top_k = 5, .seed = 4};
  GenerateOptions other = options;
  other.seed = 5;
  EXPECT_EQ(generated(model, {1}, options), generated(model, {1}, options));
  EXPECT_NE(generated(model, {1}, options), generated(model, {1}, other));
  int calls = 0;
  generate(model, {1}, options, [&](int64_t) { return ++calls < 3; });
  EXPECT_EQ(calls, 3);
}

TEST(Generate, SamplingFollowsTheWeights) {
  const Tensor logits = at::tensor({0.0, 2.0, 1.0, 2.0}).to(at::kDouble);
  EXPECT_EQ(sample_token(logits, 0, 0, 0.9), 1);
  const double e = std::exp(1.0), sum = 1 + 2 * e * e + e;
  EXPECT_EQ(sample_token(logits, 1, 0, 0), 0);
  EXPECT_EQ(sample_token(logits, 1, 0, 0.999 / sum), 0);
  EXPECT_EQ(sample_token(logits, 1, 0, 1.001 / sum), 1);
  EXPECT_EQ(sample_token(logits, 1, 0, (1 + e * e + 0.999 * e) / sum), 2);
  EXPECT_EQ(sample_token(logits, 1, 0, 0x1.fffffffffffffp-1), 3);
  EXPECT_EQ(sample_token(logits, 1, 2, 0), 1);
  EXPECT_EQ(sample_token(logits, 1, 2, 0.51), 3);
  EXPECT_EQ(sample_token(logits, 1e-6, 0, 0.3), 1);
  EXPECT_THROW(sample_token(at::tensor({0.0, NAN}), 1, 0, 0.5), Error);
}

TEST(Generate, BadOptionsAreRefused) {
  TransformerLm model(small_model_with_memory(MemoryPlacement::parallel), 1);
  const auto ignore = [](int64_t) { return true; };
  EXPECT_THROW(generate(model, {}, {}, ignore), Error);
  EXPECT_THROW(generate(model, {23}, {}, ignore), Error);
  EXPECT_THROW(generate(model, {1}, {.tokens = 1, .temperature = -1, .top_k = 0, .seed = 0}, ignore), Error);
  EXPECT_THROW(generate(model, {1}, {.tokens = 1, .temperature = NAN, .top_k = 0, .seed = 0}, ignore), Error);
  EXPECT_THROW(generate(model, {1}, {.tokens = 1, .temperature = 1, .top_k = -1, .seed = 0}, ignore), Error);
}

}  // namespace
}  // namespace loci
