#include "loci/models/retrieval_lm.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include "tests/op_harness.h"

namespace loci {
namespace {

using torch::Tensor;

TransformerLmOptions small_options() {
  TransformerLmOptions options;
  options.vocabulary = 13;
  options.width = 16;
  options.heads = 2;
  options.context = 12;
  return options;
}

RetrievalLm small_retrieval_lm(bool with_memory) {
  std::optional<RetrievalMemoryOptions> memory;
  if (with_memory) memory = RetrievalMemoryOptions{.length = 3};
  return {small_options(), memory, 4};
}

Tensor first_positions(int64_t batch, int64_t positions, int64_t count) {
  return (torch::arange(positions) < count).expand({batch, positions});
}

TEST(RetrievalLm, WithoutAMemoryOrItemsItIsTheLanguageModel) {
  TransformerLm plain(small_options(), 4);
  const Tensor input = torch::randint(13, {2, 7}), target = torch::randint(-1, 13, {2, 7});
  const Tensor items = torch::zeros({2, 5, 3}, torch::kLong), query = first_positions(2, 7, 4);
  const Tensor expected = plain.loss(input, target);
  EXPECT_TRUE(torch::equal(small_retrieval_lm(false).answer_loss(input, target, {}, {}), expected));
  EXPECT_TRUE(torch::equal(small_retrieval_lm(true).answer_loss(input, target, items, query), expected));
  EXPECT_FALSE(torch::equal(small_retrieval_lm(true).answer_loss(input, target, items + 1, query), expected));
}

// Token by token without a cache, through the loss: the token that an answer has is the one of the least loss.
TEST(RetrievalLm, AnswersAreTheLikeliestTokensOfTheLoss) {
  RetrievalLm model = small_retrieval_lm(true);
  for (Tensor& parameter : model.parameters()) parameter.detach().mul_(5);  // far from equal logits
  const Tensor prompt = torch::randint(13, {3, 5}), items = torch::randint(1, 13, {3, 4, 3});
  const auto answers = model.answer(prompt, items, first_positions(3, 5, 5), 4, /*end=*/-1);
  ASSERT_EQ(answers.tokens.sizes(), (std::vector<int64_t>{3, 4}));
  EXPECT_TRUE(torch::equal(answers.weight.sum(1), torch::ones({3})));
  const Tensor row = torch::cat({prompt, answers.tokens}, 1);
  for (int64_t b = 0; b < 3; ++b) {
    for (int64_t a = 0; a < 4; ++a) {
      const int64_t length = 5 + a;
      std::vector<double> losses;
      for (int64_t token = 0; token < 13; ++token) {
        Tensor target = torch::full({1, length}, -1, torch::kLong);
        target[0][length - 1] = token;
        const Tensor input = row.narrow(0, b, 1).narrow(1, 0, length);
        losses.push_back(
            model.answer_loss(input, target, items.narrow(0, b, 1), first_positions(1, length, 5)).item<double>());
      }
      const auto best = std::min_element(losses.begin(), losses.end()) - losses.begin();
      EXPECT_EQ(answers.tokens[b][a].item<int64_t>(), best);
    }
  }
}

TEST(RetrievalLm, BehindItsEndAnAnswerStops) {
  RetrievalLm model = small_retrieval_lm(true);
  for (Tensor& parameter : model.parameters()) parameter.detach().mul_(5);
  const Tensor prompt = torch::randint(13, {8, 5}), items = torch::randint(1, 13, {8, 4, 3});
  const Tensor query = first_positions(8, 5, 5);
  const Tensor free = model.answer(prompt, items, query, 6, -1).tokens;
  // An end that some row has before its last token: it goes on freely, and does not where it ends.
  int64_t end = -1;
  for (int64_t b = 0; b < 8; ++b) {
    if (!free[b][0].equal(free[b][1])) end = free[b][0].item<int64_t>();
  }
  ASSERT_GE(end, 0);
  ASSERT_FALSE(free.eq(end).any(1).all().item<bool>()) << "some row must go on to its last token";
  const Tensor stopped = model.answer(prompt, items, query, 6, end).tokens;
  const Tensor ended = free.eq(end).cumsum(1) > 0;
  EXPECT_TRUE(torch::equal(stopped, free.masked_fill(ended, end)));
  // Where every row has ended, no token is made.
  const Tensor first =
      model.answer(prompt.narrow(0, 0, 1), items.narrow(0, 0, 1), query.narrow(0, 0, 1), 6, free[0][0].item<int64_t>())
          .tokens;
  EXPECT_TRUE(torch::equal(first, free.narrow(0, 0, 1).narrow(1, 0, 1)));
}

TEST(RetrievalLm, ParametersOfTheMemoryAreTrained) {
  RetrievalLm model = small_retrieval_lm(true);
  const Tensor input = torch::randint(13, {2, 7}), target = torch::randint(13, {2, 7});
  model.answer_loss(input, target, torch::randint(1, 13, {2, 5, 3}), first_positions(2, 7, 4)).backward();
  int64_t embeddings = 0;
  for (const NamedParameter& parameter : model.dense_parameters()) {
    EXPECT_TRUE(parameter.value.grad().defined()) << parameter.name;
    embeddings += parameter.embedding ? 1 : 0;
  }
  EXPECT_EQ(embeddings, 2);
}

TEST(RetrievalLm, RefusesBadInput) {
  TransformerLmOptions options = small_options();
  options.causal = false;
  EXPECT_THAT(harness::message_of([&] { RetrievalLm(options, std::nullopt, 1); }),
              testing::HasSubstr("RetrievalLm: the model must be causal, got causal = false"));
  RetrievalLm model = small_retrieval_lm(false);
  EXPECT_THAT(harness::message_of([&] { model.answer(torch::zeros({2, 0}, torch::kLong), {}, {}, 1, 0); }),
              testing::HasSubstr("prompt must be [B, P] with P >= 1, for one token or more, got [2, 0] for 1"));
}

}  // namespace
}  // namespace loci
