// Legend: B texts, L positions, d width, C classes.
#include "loci/models/text_classifier.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <map>
#include <string>

#include "loci/base/check.h"
#include "tests/module_state.h"
#include "tests/small_model.h"

namespace loci {
namespace {

using at::Tensor;

TransformerLmOptions classifier_options(bool causal = false) {
  return small_model_with_memory(MemoryPlacement::parallel, [&](auto& o) { o.causal = causal; });
}

Tensor text_tokens() {
  torch::manual_seed(5);
  return torch::randint(23, {3, 10}, at::kLong);
}

// Padding does not change a text's classes, whatever stands for the text and whatever the padding is.
TEST(TextClassifier, PoolsTheTokensOfATextAlone) {
  for (const bool causal : {false, true}) {
    for (const TextPooling pooling : {TextPooling::mean, TextPooling::first, TextPooling::last}) {
      if (causal && pooling == TextPooling::first) continue;
      TextClassifier model(classifier_options(causal), pooling, 4, 1);
      model.to(at::kDouble);
      model.eval();
      const Tensor tokens = text_tokens();
      BlockContext context;
      context.token_mask = at::ones({3, 10}, at::kBool);
      context.token_mask[1].slice(0, 6) = false;
      const Tensor logits = model.classify(tokens, context);
      EXPECT_EQ(logits.sizes(), (std::vector<int64_t>{3, 4}));
      const Tensor alone = model.classify(tokens.slice(0, 1, 2).slice(1, 0, 6));
      EXPECT_TRUE(torch::allclose(logits[1], alone[0], 1e-10, 1e-12)) << causal;
      EXPECT_TRUE(torch::allclose(logits[0], model.classify(tokens.slice(0, 0, 1))[0], 1e-10, 1e-12)) << causal;
      EXPECT_FALSE(torch::allclose(logits[1], model.classify(tokens)[1], 1e-6, 1e-6)) << causal;
    }
  }
}

// With the identity as the output layer the classes are what is pooled: sums of squares tell the three apart.
TEST(TextClassifier, EachPoolingIsWhatItsNameSays) {
  const Tensor tokens = text_tokens();
  std::map<TextPooling, Tensor> pooled;
  for (const TextPooling pooling : {TextPooling::mean, TextPooling::first, TextPooling::last}) {
    TextClassifier model(classifier_options(), pooling, 16, 1);
    model.to(at::kDouble);
    model.eval();
    const torch::NoGradGuard guard;
    model.named_parameters()["classifier.weight"].copy_(at::eye(16));
    pooled[pooling] = model.classify(tokens);
    model.named_parameters()["classifier.bias"].fill_(1);
    EXPECT_TRUE(torch::allclose(model.classify(tokens), pooled[pooling] + 1));
  }
  TransformerLm body(classifier_options(), 1);  // the same seed draws the same parameters
  body.to(at::kDouble);
  body.eval();
  // logits = norm(x) embedding^T has as many columns as the vocabulary, more than the width: its least squares are x.
  const Tensor embedding = state_of(body).at("embedding");
  const Tensor x = at::matmul(body.forward(tokens), at::linalg_pinv(embedding.t().detach(), 1e-12));  // [B, L, d]
  EXPECT_TRUE(torch::allclose(pooled[TextPooling::mean], x.mean(1), 1e-6, 1e-8));
  EXPECT_TRUE(torch::allclose(pooled[TextPooling::first], x.select(1, 0), 1e-6, 1e-8));
  EXPECT_TRUE(torch::allclose(pooled[TextPooling::last], x.select(1, -1), 1e-6, 1e-8));
}

TEST(TextClassifier, StartsFromALanguageModelByItsNames) {
  TransformerLm trained(classifier_options(), 7);
  TextClassifier model(classifier_options(), TextPooling::mean, 3, 1);
  const Tensor drawn = state_of(model).at("classifier.weight").clone();
  model.load(state_of(trained));
  for (const auto& [name, value] : state_of(trained))
    EXPECT_TRUE(torch::equal(state_of(model).at(name), value)) << name;
  EXPECT_TRUE(torch::equal(state_of(model).at("classifier.weight"), drawn));
  EXPECT_GT(drawn.abs().max().item<double>(), 0);
  auto half = state_of(model);
  half.erase("classifier.bias");
  EXPECT_THROW(model.load(half), Error);
  EXPECT_THROW(trained.load(state_of(model)), Error);                 // a language model has no classes
  EXPECT_THROW(model.TransformerLm::load(state_of(trained)), Error);  // and does not know that a part may be new
  int64_t decayed = 0;
  for (const NamedParameter& p : model.dense_parameters()) decayed += p.name == "classifier.weight" && p.decay;
  EXPECT_EQ(decayed, 1);
  EXPECT_EQ(TextClassifier::count_head(16, 3), drawn.numel() + 3);
}

TEST(TextClassifier, WhatCannotBeIsRefused) {
  const auto message = [](const std::function<void()>& action) -> std::string {
    try {
      action();
    } catch (const std::exception& error) {
      return error.what();
    }
    return "nothing";
  };
  EXPECT_EQ(message([] { TextClassifier(classifier_options(), TextPooling::mean, 1, 1); }),
            "TextClassifier: classes must be at least 2, got 1");
  EXPECT_EQ(message([] { TextClassifier(classifier_options(true), TextPooling::first, 2, 1); }),
            "TextClassifier: pooling must be mean or last where the model is causal, got first");
  TextClassifier model(classifier_options(), TextPooling::mean, 2, 1);
  EXPECT_NE(message([&] { model.classify(at::zeros({2, 0}, at::kLong)); }).find("a text must have tokens"),
            std::string::npos);
  BlockContext context;
  context.token_mask = at::zeros({3, 10}, at::kBool);
  EXPECT_NE(message([&] { model.classify(text_tokens(), context); }).find("each text must have a token"),
            std::string::npos);
}

}  // namespace
}  // namespace loci
