#include "loci/tasks/language_model.h"

#include <c10/core/InferenceMode.h>
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>

#include "loci/table/row_store.h"
#include "loci/tasks/all.h"
#include "loci/train/trainer.h"
#include "tests/language_model_test.h"

namespace loci {
namespace {

TEST_F(LanguageModel, LossIsAFunctionOfStepAndSeed) {
  const auto task = make({"model.memory.query_norm=layer"});
  const double first = task->loss(0, 0).item<double>();
  const double later = task->loss(7, 0).item<double>();
  EXPECT_NE(first, later);
  EXPECT_EQ(task->loss(0, 0).item<double>(), first);
  EXPECT_EQ(make({"model.memory.query_norm=layer"})->loss(7, 0).item<double>(), later);
}

TEST_F(LanguageModel, EvaluationCountsEveryTokenOfTheValidationPartOnce) {
  const auto task = make();
  const Evaluation measured = evaluate(*task, false);
  const int64_t tokens = measured.details["tokens"];
  EXPECT_EQ((tokens + 1) % 202, 0);  // whole files of 201 bytes and their end; the first token is no target
  // A byte is a token but for the ends of text, which have no bytes.
  const double nats = measured.values[0] * static_cast<double>(tokens);
  const double bytes = static_cast<double>((tokens + 1) / 202 * 201 - 1);
  EXPECT_NEAR(measured.values[1], nats / std::log(2.0) / bytes, 1e-9);
  EXPECT_EQ(measured.details["memories"].size(), 1u);
  EXPECT_EQ(measured.details["memories"][0]["usage"], measured.values[2]);
  EXPECT_EQ(measured.values.size(), task->measures().size());
  EXPECT_TRUE(task->module().is_training());
}

// The texts repeat one byte each. A text of the validation part has a byte that training never saw.
TEST_F(LanguageModel, BaselinesCountTheTokensOfTheGivenSteps) {
  const auto task = make();
  const auto untrained = task->baselines(0), counted = task->baselines(30);
  ASSERT_EQ(counted.size(), 2u);
  EXPECT_TRUE(task->baselines(int64_t{1} << 30).empty());  // too many tokens to sort
  EXPECT_EQ(counted[0].name, "counted bigrams");
  EXPECT_EQ(counted[1].name, "counted trigrams");
  for (size_t i = 0; i < 2; ++i) {
    EXPECT_EQ(untrained[i].numbers, 0);
    EXPECT_NEAR(untrained[i].measures.at("loss"), std::log(257.0), 1e-9);  // bytes and the end of a text
    EXPECT_GT(counted[i].numbers, 4);
    EXPECT_GT(counted[i].measures.at("loss"), std::log(257.0));  // sure of bytes that do not come
  }
  std::ofstream(folder_ / "0.txt") << std::string(2000, 'x') << "\n";
  std::ofstream(folder_ / "9.txt") << std::string(1500, 'x') << "\n";
  for (int i = 1; i < 6; ++i) std::filesystem::remove(folder_ / fmt::format("{}.txt", i));
  const auto known = make()->baselines(30);
  EXPECT_LT(known[0].measures.at("loss"), 0.1);
  EXPECT_NEAR(known[0].measures.at("bits_per_byte"), known[0].measures.at("loss") / std::log(2.0), 0.01);
}

TEST_F(LanguageModel, EvaluationChangesNothing) {
  const auto task = make();
  const auto state = [&] {
    std::vector<at::Tensor> copies;
    for (const auto& buffer : task->module().named_buffers()) copies.push_back(buffer.value().clone());
    for (const auto& [name, tensor] : task->extra_state()) copies.push_back(tensor.clone());
    return copies;
  };
  task->loss(0, 0).backward();
  const auto before = state();
  const Evaluation first = evaluate(*task, false);
  const auto after = state();
  for (size_t i = 0; i < before.size(); ++i) EXPECT_TRUE(before[i].equal(after[i])) << i;
  const Evaluation second = evaluate(*task, false);
  EXPECT_EQ(second.values, first.values);
  EXPECT_EQ(second.details, first.details);
}

TEST_F(LanguageModel, CalibrationBeginsTheMemoryAnewAtItsStep) {
  const auto task = make({"model.memory.calibrate_at=2", "model.memory.calibrate_tokens=50"});
  OptimizerSet optimizers(task->dense_parameters(), {}, task->tables(), 3);
  const at::Tensor keys = [&] {
    for (const NamedParameter& p : task->dense_parameters()) {
      if (p.name.find("keys1") != std::string::npos) return p.value;
    }
    return at::Tensor();
  }();
  const at::Tensor before = keys.detach().clone();
  const at::Tensor values = task->tables()[0].first->store().values();
  for (int64_t step = 0; step < 3; ++step) {
    task->before_step(step, optimizers);
    EXPECT_EQ(keys.detach().norm(2, -1).allclose(at::ones({2, 5}), 1e-4, 1e-4), step == 2) << step;
    if (step == 2) break;
    task->loss(step, 0).backward();
    optimizers.step(step, 10);
  }
  EXPECT_FALSE(keys.equal(before));
  EXPECT_EQ(values.abs().sum().item<double>(), 0);
  for (const auto& [name, tensor] : optimizers.state()) {
    if (name.find("keys") != std::string::npos || name.starts_with("table.")) {
      if (name.ends_with("steps")) continue;
      EXPECT_EQ(tensor.abs().sum().item<double>(), 0) << name;
    }
  }
}

TEST_F(LanguageModel, CountersOfALoggedWindowStayUntilTheNextStep) {
  const auto task = make();
  OptimizerSet optimizers(task->dense_parameters(), {}, task->tables(), 3);
  // What a run that is resumed from here has counted.
  const auto reads = [&] {
    const RowCounters state = task->row_state(*task->tables()[0].first, 0);
    EXPECT_EQ(state.tensors[0].first, "usage.0");
    const int64_t begin = task->extra_state()[0].second.item<int64_t>();
    const at::Tensor counts = state.tensors[0].second.select(1, 0).bitwise_and(0x7fffffff);
    return (counts * (state.tensors[0].second.select(1, 2) > begin)).sum().item<int64_t>();
  };
  task->before_step(0, optimizers);
  task->loss(0, 0);
  EXPECT_EQ(reads(), 4 * 8 * 2 * 3);
  EXPECT_GT(task->training_measures(true)["usage"].get<double>(), 0);
  EXPECT_EQ(reads(), 4 * 8 * 2 * 3);
  task->before_step(1, optimizers);
  EXPECT_EQ(reads(), 0);
}

TEST_F(LanguageModel, EveryHundredthStepMeasuresTheMemory) {
  const auto task = make();
  OptimizerSet optimizers(task->dense_parameters(), {}, task->tables(), 3);
  task->before_step(0, optimizers);
  task->loss(0, 0);
  EXPECT_TRUE(task->after_step({1, 200, 5.0}, optimizers).empty());
  const std::vector<TaskEvent> events = task->after_step({100, 200, 5.0}, optimizers);
  ASSERT_EQ(events.size(), 1u);
  const nlohmann::json& line = events[0].line;
  EXPECT_EQ(line["kind"], "memory");
  EXPECT_EQ(line["layer"], 0);
  EXPECT_EQ(line["used"], line["usage"]);
  EXPECT_NEAR(line["expected"].get<double>(), 1, 1e-3);  // 4 * 8 * 2 * 3 reads of 25 rows
  for (const char* key : {"usage_at_1", "gini", "rows_50", "rows_90", "rows_99", "age_p90", "sub_keys_alive"}) {
    EXPECT_TRUE(line[key].is_number()) << key;
  }
}

TEST_F(LanguageModel, RowStateNamesTheRowsReadSinceACheckpoint) {
  const auto task = make();
  OptimizerSet optimizers(task->dense_parameters(), {}, task->tables(), 3);
  const Table& table = *task->tables()[0].first;
  task->before_step(0, optimizers);
  task->loss(0, 0);
  task->before_step(1, optimizers);
  EXPECT_GT(task->row_state(table, 0).changed.size(), 5u);
  EXPECT_TRUE(task->row_state(table, 1).changed.empty());
}

TEST_F(LanguageModel, AnEvaluationAndInferenceLeaveTheCountersOfTraining) {
  const auto task = make();
  OptimizerSet optimizers(task->dense_parameters(), {}, task->tables(), 3);
  task->before_step(0, optimizers);
  task->loss(0, 0);
  const Table& table = *task->tables()[0].first;
  const at::Tensor before = task->row_state(table, 0).tensors[0].second.clone();
  EXPECT_GT(before.sum().item<int64_t>(), 0);
  EXPECT_GT(evaluate(*task, false).details["memories"][0]["usage"].get<double>(), 0);
  task->infer(0);
  EXPECT_TRUE(before.equal(task->row_state(table, 0).tensors[0].second));
}

TEST_F(LanguageModel, TheDataKeyFollowsTheText) {
  const std::string before = make()->data_key();
  EXPECT_EQ(make()->data_key(), before);
  std::ofstream(folder_ / "more.txt") << "another text\n";
  EXPECT_NE(make()->data_key(), before);
}

// The extensions are compared, and hidden files left out, as where the folder is read.
TEST_F(LanguageModel, MemoryOfTheDataIsThatOfTheFilesThatAreRead) {
  const auto bytes = [this](const std::string& extensions) {
    const Recipe recipe =
        read_recipe(Config::from_text(kLanguageModelRecipe), {"data.extensions=" + extensions}, all_tasks());
    return recipe.arms[0].config.plan->data_bytes(folder_.path());
  };
  const int64_t of_txt = 2 * 6 * 201;
  EXPECT_EQ(bytes("[]"), of_txt);
  std::ofstream(folder_ / "a.MD") << "12345";
  std::filesystem::create_directory(folder_ / ".git");
  for (const char* name : {".git/b.md", ".hidden.md"}) std::ofstream(folder_ / name) << "hidden";
  EXPECT_EQ(bytes("[]"), of_txt + 10);
  for (const char* extensions : {"[\".md\"]", "[\"MD\"]"}) EXPECT_EQ(bytes(extensions), 10) << extensions;
}

const std::vector<std::string> kWithNgrams = {"main:model.ngram.layers=[0]", "main:model.ngram.rows=700",
                                              "main:model.ngram.rate=4", "table_optimizer.learning_rate=0.01"};

TEST_F(LanguageModel, NgramRowsLearnAtARateOfTheirOwn) {
  const auto task = make(kWithNgrams);
  const auto tables = task->tables();
  ASSERT_EQ(tables.size(), 2u);
  for (const auto& [table, options] : tables) {
    EXPECT_DOUBLE_EQ(options.learning_rate, table->name() == "layers.0.ngram.values" ? 0.04 : 0.01) << table->name();
  }
}

TEST_F(LanguageModel, AnEvaluationTellsWhichNgramsShareRows) {
  const auto task = make(kWithNgrams);
  const Evaluation measured = evaluate(*task, false);
  EXPECT_EQ(measured.values.size(), task->measures().size());
  ASSERT_EQ(measured.details["ngrams"].size(), 1u);
  const nlohmann::json& ngrams = measured.details["ngrams"][0];
  EXPECT_EQ(ngrams["layer"], 0);
  EXPECT_GT(ngrams["usage"].get<double>(), 0);
  ASSERT_EQ(ngrams["orders"].size(), 3u);
  EXPECT_EQ(ngrams["orders"][0]["shared"], 0.0);
  // Each validation text is one letter, a line end and the end of the text.
  const int64_t texts = (measured.details["tokens"].get<int64_t>() + 1) / 202;
  EXPECT_EQ(ngrams["orders"][0]["distinct"], texts + 2);
  EXPECT_GE(ngrams["orders"][2]["distinct"], ngrams["orders"][1]["distinct"]);
  EXPECT_NE(task->account(measured, {}).text.find("n-grams in layer 0: usage"), std::string::npos);
}

TEST_F(LanguageModel, LossByContextSumsUpToTheLossOfTheTokensWithTwoBefore) {
  std::ofstream(folder_ / "0.txt") << std::string(3000, 'x') << "\nabcd";
  std::ofstream(folder_ / "9.txt") << std::string(1500, 'x') << "\nmnop";
  for (int i = 1; i < 6; ++i) std::filesystem::remove(folder_ / fmt::format("{}.txt", i));
  const auto task = make(kWithNgrams);
  const Evaluation measured = evaluate(*task, false);
  const c10::InferenceMode no_gradient;
  AccountOptions options;
  options.by_context = 60;
  const nlohmann::json classes = account_of(*task, measured, options, false).json.at("by_context");
  int64_t tokens = 0;
  double nats = 0;
  for (const nlohmann::json& c : classes) {
    tokens += c.at("tokens").get<int64_t>();
    nats += c.at("loss").get<double>() * c.at("tokens").get<double>();
  }
  EXPECT_EQ(classes.front().at("seen"), "never");
  const int64_t never = classes.front().at("tokens");
  EXPECT_TRUE(never >= 2 && never <= 6) << never;  // of the four letters that only one text has
  EXPECT_GE(classes.back().at("tokens").get<int64_t>(), tokens * 9 / 10);
  EXPECT_LT(classes.back().at("counted_trigrams").get<double>(), 0.1);
  const int64_t all = measured.details["tokens"];
  EXPECT_EQ(tokens, all - (all + 7) / 8);  // without the first of each window
  options.by_context = int64_t{1} << 30;
  expect_error(ExitCode::usage, "--by-context: RUN must have at most 8.4 M training tokens",
               [&] { account_of(*task, measured, options, false); });
  EXPECT_NEAR(nats / static_cast<double>(tokens), measured.values[0], 0.05);
}

TEST_F(LanguageModel, QuestionsAreAnsweredByTheLikeliestTokens) {
  const auto task = make();
  auto* const model = dynamic_cast<TransformerLm*>(&task->module());
  ASSERT_NE(model, nullptr);
  const Evaluation measured = evaluate(*task, false);
  const c10::InferenceMode no_gradient;
  AccountOptions options;
  options.questions = folder_ / "questions.tsv";
  const auto ask = [&](const std::string& text) {
    std::ofstream(options.questions) << text;
    return account_of(*task, measured, options, false).json.at("questions");
  };
  // What the untrained model itself says after "ab": two tokens, one by one.
  model->eval();
  at::Tensor tokens = at::tensor({256, 'a', 'b'}, at::kLong).unsqueeze(0);
  std::string answer;
  double nats = 0;
  for (int i = 0; i < 2; ++i) {
    const at::Tensor scores = model->TransformerLm::forward(tokens).select(1, -1);
    const at::Tensor next = scores.argmax(-1, true);
    nats -= scores.log_softmax(-1).max().item<double>() / 2;
    answer += static_cast<char>(next.item<int64_t>());
    tokens = at::cat({tokens, next}, 1);
  }
  model->train();
  ASSERT_EQ(answer.find_first_of("\t\n\r"), std::string::npos);
  const nlohmann::json right = ask("ab\t" + answer + "\r\n\n");
  EXPECT_EQ(right.at("right"), 1);
  EXPECT_NEAR(right.at("loss").get<double>(), nats, 1e-5);
  const nlohmann::json both = ask("ab\t" + answer + "\nabc\tzz\n");
  EXPECT_EQ(both.at("questions"), 2);
  EXPECT_EQ(both.at("right"), 1);
  expect_error(ExitCode::input, "questions.tsv:1: a line must be PROMPT, one tab, ANSWER, got no tab",
               [&] { ask("no tab\n"); });
  expect_error(ExitCode::input, "questions.tsv:2: a line must be PROMPT, one tab", [&] { ask("a\tb\na\tb\tc\n"); });
  expect_error(ExitCode::input, "questions.tsv:1: a line must be PROMPT, one tab", [&] { ask("a\t\n"); });
  expect_error(ExitCode::input, "at most 8 tokens", [&] { ask("abcdefg\thi\n"); });
  expect_error(ExitCode::input, "must hold questions, got none", [&] { ask("\n"); });
}

TEST_F(LanguageModel, ARunThatContinuesGoesOnInTheData) {
  for (const std::vector<std::string>& settings :
       {std::vector<std::string>{"model.memory.query_norm=layer"}, kMasked}) {
    units_before_ = 0;
    const double later = make(settings)->loss(3, 0).item<double>();
    units_before_ = 2 * 4 * 8 + 1;  // two steps and a token: on from the third
    const auto goes_on = make(settings);
    EXPECT_EQ(goes_on->loss(0, 0).item<double>(), later);
  }
  units_before_ = 0;
  const double counted = make()->baselines(30)[0].measures.at("loss");
  units_before_ = 10 * 4 * 8;
  EXPECT_EQ(make()->baselines(20)[0].measures.at("loss"), counted);
}

TEST_F(LanguageModel, MistakesInTheModelAreToldBeforeTheDataIsRead) {
  expect_error(ExitCode::usage, "width", [&] { make({"model.width=7"}); });
  expect_error(ExitCode::usage, "memory.layers", [&] { make({"model.memory.layers=[3]"}); });
  expect_error(ExitCode::usage, "ngram.layers", [&] { make({"main:model.ngram.layers=[3]"}); });
  expect_error(ExitCode::usage, "model.ngram.value_dtype must be float32 or bfloat16 to be trained",
               [&] { make({"main:model.ngram.value_dtype=int8"}); });
}

}  // namespace
}  // namespace loci
