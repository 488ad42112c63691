// Language models that fill in masked tokens.
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>

#include "loci/tasks/language_model.h"
#include "loci/train/trainer.h"
#include "tests/language_model_test.h"

namespace loci {
namespace {

TEST_F(LanguageModel, AMaskedModelHasATokenMoreAndIsMeasuredByItsLossAlone) {
  const auto task = make(kMasked);
  EXPECT_EQ(dynamic_cast<TransformerLm&>(task->module()).options().vocabulary, 258);
  const Evaluation measured = evaluate(*task, false);
  EXPECT_EQ(measured.values.size(), task->measures().size());
  EXPECT_EQ(task->measures().at(0).name, "loss");
  EXPECT_EQ(task->measures().at(1).name, "usage");
  EXPECT_NEAR(measured.values[0], std::log(258.0), 0.3);
  // Of a text of letters that repeat, about 15 % of the tokens are asked for.
  const int64_t validation = task->data_facts()["validation tokens"], asked = measured.details["tokens"];
  EXPECT_NEAR(static_cast<double>(asked) / static_cast<double>(validation), 0.15, 0.05);
  EXPECT_TRUE(task->baselines(30).empty());
  expect_error(ExitCode::usage,
               "language_model: model.vocabulary must be 0 or at least the tokenizer's 257 and the mask "
               "symbol, got 257",
               [&] { make({"model.causal=false", "model.vocabulary=257"}); });
  EXPECT_EQ(
      dynamic_cast<TransformerLm&>(make({"model.causal=false", "model.vocabulary=258"})->module()).options().vocabulary,
      258);
}

TEST_F(LanguageModel, MasksFollowFromSeedAndStepWhateverTheAccumulation) {
  const auto task = make(kMasked);
  const double first = task->loss(0, 0).item<double>(), later = task->loss(7, 0).item<double>();
  EXPECT_NE(first, later);
  EXPECT_EQ(task->loss(0, 0).item<double>(), first);
  EXPECT_EQ(make(kMasked)->loss(7, 0).item<double>(), later);
  std::vector<std::string> more = kMasked;
  more.push_back("train.accumulation=4");
  more.push_back("masking.share=1");  // each micro-batch weighs the same
  const auto parts = make(more);
  more[2] = "train.accumulation=1";
  double sum = 0;
  for (int64_t micro = 0; micro < 4; ++micro) sum += parts->loss(7, micro).item<double>() / 4;
  EXPECT_NEAR(sum, make(more)->loss(7, 0).item<double>(), 1e-5);
}

// Where every token is the mask symbol, all positions read the same rows: 2 heads with 3 each.
TEST_F(LanguageModel, TheModelSeesTheMaskedTokens) {
  for (const bool all : {true, false}) {
    std::vector<std::string> settings = kMasked;
    if (all) settings.insert(settings.end(), {"masking.share=1", "masking.symbol=1", "masking.random=0"});
    const auto task = make(settings);
    OptimizerSet optimizers(task->dense_parameters(), {}, task->tables(), 3);
    task->before_step(0, optimizers);
    task->loss(0, 0);
    EXPECT_EQ(task->training_measures(true)["usage"].get<double>() <= 6.0 / 25, all);
    EXPECT_EQ(evaluate(*task, false).details["memories"][0]["usage"].get<double>() <= 6.0 / 25, all);
  }
}

TEST_F(LanguageModel, MasksOfAnEvaluationAreTheSameForEverySeedBatchAndContext) {
  const auto tokens_of = [&](const std::vector<std::string>& more) {
    std::vector<std::string> settings = kMasked;
    settings.insert(settings.end(), more.begin(), more.end());
    return evaluate(*make(settings), false);
  };
  const Evaluation one = tokens_of({});
  EXPECT_EQ(tokens_of({}).values, one.values);
  EXPECT_EQ(tokens_of({"train.batch=3"}).details["tokens"], one.details["tokens"]);
  EXPECT_NEAR(tokens_of({"train.batch=3"}).values[0], one.values[0], 1e-5);
  EXPECT_EQ(tokens_of({"model.context=11"}).details["tokens"], one.details["tokens"]);
  seed_ = 4;
  EXPECT_EQ(tokens_of({}).details["tokens"], one.details["tokens"]);
}

TEST_F(LanguageModel, AMaskedModelAnswersNoQuestionsOfTheNextToken) {
  const auto task = make(kMasked);
  const Evaluation measured = evaluate(*task, false);
  AccountOptions options;
  options.by_context = 3;
  expect_error(ExitCode::usage,
               "--by-context: RUN must be a causal language model, got one that fills in masked tokens",
               [&] { account_of(*task, measured, options, false); });
  options = {};
  options.questions = folder_ / "0.txt";
  expect_error(ExitCode::usage, "--questions: RUN must be a causal language model",
               [&] { account_of(*task, measured, options, false); });
  expect_error(ExitCode::usage, "ngram must be absent where causal is false",
               [&] { make({"model.causal=false", "main:model.ngram.layers=[0]"}); });
  expect_error(ExitCode::usage, "masking: symbol + random must be at most 1",
               [&] { make({"model.causal=false", "masking.random=0.5"}); });
  expect_error(ExitCode::usage, "masking must be left out, for it has an effect only where model.causal is false",
               [&] { make({"masking.share=0.2"}); });  // of a causal model
}

TEST_F(LanguageModel, AValidationPartWithoutAMaskedTokenIsRefused) {
  for (int i = 0; i < 6; ++i) std::filesystem::remove(folder_ / fmt::format("{}.txt", i));
  std::ofstream(folder_ / "0.txt") << std::string(300, 'x');
  std::ofstream(folder_ / "9.txt") << std::string(150, 'y');
  std::vector<std::string> settings = kMasked;
  settings.push_back("masking.share=0.01");
  settings.push_back("data.evaluation_tokens=1");
  settings.push_back("train.batch=1");
  expect_error(ExitCode::input,
               "language_model: the validation part must be so long that a token of it is masked, got none of",
               [&] { make(settings); });
}

}  // namespace
}  // namespace loci
