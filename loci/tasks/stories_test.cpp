#include "loci/tasks/stories.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cmath>

#include "tests/task_test.h"

namespace loci {
namespace {

namespace fs = std::filesystem;

constexpr const char* kStoriesRecipe = R"(
task = "stories"
[data]
test_stories = 20
[model]
width = 32
[train]
batch = 32
precision = "float32"
[optimizer]
learning_rate = 3e-3
weight_decay = 0
[optimizer.schedule]
warmup = 0
)";
const std::vector<std::string> kStorySentence = {"model.input=sentence"};
const std::vector<std::string> kStoryMemory = {"main:model.memory.query=question"};
const std::vector<std::string> kStoryHard = {"main:model.memory.mode=hard"};
const std::vector<std::string> kStoryRight = {"main:model.memory.items=right", "main:model.memory.count_padding=true"};

class StoriesTest : public TaskTest {
 protected:
  StoriesTest() : TaskTest(kStoriesRecipe) {}
  std::unique_ptr<Task> make(const std::vector<std::string>& settings = {}, const fs::path& checkpoint = {}) {
    return make_task(settings, {}, checkpoint);
  }
};

// One row of a batch, as words.
struct RowWords {
  std::string prompt, answer, query;
  std::vector<std::string> items;
};

RowWords words_of(const StoryRows& rows, int64_t b) {
  RowWords words;
  std::vector<int64_t> prompt, answer, query;
  for (int64_t p = 0; p < rows.input.size(1); ++p) {
    const auto target = rows.target[b][p].item<int64_t>(), input = rows.input[b][p].item<int64_t>();
    if (target >= 0) answer.push_back(target);
    if (rows.query[b][p].item<bool>()) query.push_back(input);
    if (answer.size() <= 1) prompt.push_back(input);
    // What an answer's position reads is the token that the one before had to say.
    if (answer.size() > 1 && target >= 0) {
      EXPECT_EQ(answer[answer.size() - 2], input);
    }
  }
  EXPECT_EQ(answer.back(), story::end);
  for (int64_t m = 0; m < rows.items.size(1); ++m) {
    const auto* item = rows.items[b][m].const_data_ptr<int64_t>();
    words.items.push_back(story_text({item, kStoryInferenceWords}));
  }
  words.prompt = story_text(prompt);
  words.answer = story_text(answer);
  words.query = story_text(query);
  return words;
}

std::string sentences_text(const Story& story, int64_t first, int64_t behind) {
  std::string text;
  for (int64_t i = first; i < behind; ++i) {
    text += story_text(story_sentence_words(story.sentences.at(static_cast<size_t>(i)))) + " ";
  }
  return text;
}

TEST(StoryRows, ShowPromptAnswerAndItemsOfTheQuestion) {
  const StoryGrammar grammar(3, "stories.training", StoryPart::training);
  for (const auto input : {StoryInput::sentence, StoryInput::story}) {
    for (const auto items : {StoryItems::earlier, StoryItems::right}) {
      const auto query = input == StoryInput::story ? StoryQuery::row : StoryQuery::question;
      const StoryTraining training(3, {.input = input, .has_items = true, .items = items, .query = query});
      const StoryRows rows = training.rows(100, 200);
      for (int64_t b = 0; b < 200; ++b) {
        const Story story = grammar.story(100 + b);
        const RowWords words = words_of(rows, b);
        const auto sentence = static_cast<int64_t>(words.prompt[words.prompt.rfind("<sentence ") + 10] - '1');
        int64_t r = 0;
        const std::string last = words.prompt.substr(words.prompt.rfind(' ') + 1);
        while (story_words().at(static_cast<size_t>(story::relation_token + r)) != last) ++r;
        const auto relation = static_cast<StoryRelation>(r);
        const std::string question = fmt::format("<sentence {}> {}", sentence + 1, last);
        const int64_t behind = r < 3 ? sentence + 1 : kStorySentences;
        EXPECT_EQ(words.prompt, (input == StoryInput::sentence ? sentences_text(story, sentence, sentence + 1)
                                                               : sentences_text(story, 0, behind)) +
                                    question);
        EXPECT_EQ(words.query, query == StoryQuery::row ? words.prompt : question);
        const StoryInference& inference = story.inference(sentence, relation);
        EXPECT_EQ(words.answer, story_text(inference.words));
        std::vector<std::string> expected(kStoryMostItems);
        if (items == StoryItems::right && inference.cross_sentence()) {
          expected[0] = story_text(story.inference(inference.fact.sentence, inference.fact.relation).words);
        }
        for (int64_t i = 0; items == StoryItems::earlier && i < sentence * kStoryRelations; ++i) {
          const auto earlier = static_cast<StoryRelation>(i % kStoryRelations);
          expected[static_cast<size_t>(i)] = story_text(story.inference(i / kStoryRelations, earlier).words);
        }
        EXPECT_EQ(words.items, expected);
      }
    }
  }
}

TEST(StoryScores, F1CountsEveryWordAsOftenAsItStandsInBoth) {
  const auto f1 = [](const std::vector<int64_t>& answer, const std::vector<int64_t>& truth) {
    return story_f1(answer, truth);
  };
  EXPECT_EQ(f1({5, 6, 7}, {5, 6, 7}), 1);
  EXPECT_EQ(f1({5, 6, 7, 0, 0}, {7, 6, 5}), 1);
  EXPECT_DOUBLE_EQ(f1({5, 5, 5}, {5, 6}), 2.0 / 5);
  EXPECT_EQ(f1({0, 0}, {5, 6}), 0);
}

// A model that knows everything has all measures at 1; one that says the same to all has what a count says.
TEST(StoryScores, MeasuresAreThoseOfAnswersThatAreKnown) {
  const StoryGrammar grammar(7, "test", StoryPart::held_out);
  StoryScores right, none;
  double inferences = 0, cross = 0, say_none = 0, with_word = 0, with_items = 0;
  for (int64_t n = 0; n < 100; ++n) {
    const Story story = grammar.story(n);
    std::vector<int64_t> items(static_cast<size_t>(kStoryMostItems * kStoryInferenceWords));
    for (int64_t i = 0; i < kStorySentences; ++i) {
      for (int64_t r = 0; r < kStoryRelations; ++r) {
        const auto relation = static_cast<StoryRelation>(r);
        const StoryInference& inference = story.inference(i, relation);
        const int64_t count =
            fill_story_items(story, true_texts(story), i, relation, StoryItems::earlier, items.data());
        StoryAnswer answer;
        answer.words = inference.words;
        answer.items = {items.data(), static_cast<size_t>(count * kStoryInferenceWords)};
        if (count > 0) answer.item = 0;
        if (inference.cross_sentence()) {
          answer.item = inference.fact.sentence * kStoryRelations + static_cast<int64_t>(inference.fact.relation);
          for (int64_t item = 0; item < count; ++item) {
            const auto* begin = items.data() + item * kStoryInferenceWords;
            with_word += std::count(begin, begin + kStoryInferenceWords, inference.fact.word) > 0
                             ? 1 / static_cast<double>(count)
                             : 0;
          }
          ++with_items;
        }
        right.add(story, i, relation, answer);
        answer.words = {story::none};
        answer.item = -1;
        none.add(story, i, relation, answer);
        ++inferences;
        cross += inference.cross_sentence() ? 1 : 0;
        say_none += inference.words[0] == story::none ? 1 : 0;
      }
    }
  }
  const Evaluation known = right.evaluation();
  EXPECT_EQ(known.values, (std::vector<double>(7, 1)));
  EXPECT_EQ(known.details.at("retrieval_of_fact"), 1);
  EXPECT_NEAR(known.details.at("retrieval_chance").get<double>(), with_word / with_items, 1e-9);
  EXPECT_EQ(known.details.at("inferences"), 100 * 45);
  EXPECT_EQ(known.details.at("cross_inferences").get<double>(), cross);
  const Evaluation same = none.evaluation();
  EXPECT_EQ(same.values[0], 0);
  EXPECT_DOUBLE_EQ(same.values[1], say_none / (inferences - cross));
  EXPECT_DOUBLE_EQ(same.values[2], say_none / inferences);
  EXPECT_DOUBLE_EQ(same.values[5], say_none / inferences);
  EXPECT_TRUE(std::isnan(same.values[6]));
}

TEST_F(StoriesTest, LossIsAFunctionOfStep) {
  const auto task = make(kStoryMemory);
  task->module().eval();
  const double first = task->loss(0, 0).item<double>(), later = task->loss(7, 0).item<double>();
  EXPECT_NE(first, later);
  EXPECT_EQ(task->loss(7, 0).item<double>(), later);
  EXPECT_EQ(make(kStoryMemory)->loss(7, 0).item<double>(), later);
}

TEST_F(StoriesTest, GoesOnBitForBit) {
  for (const auto& settings : {kStoryMemory, kStoryRight}) {
    expect_resume_bit_for_bit([&](const fs::path& checkpoint) { return make(settings, checkpoint); });
  }
}

TEST_F(StoriesTest, EveryArmIsEvaluatedOnTheTestStories) {
  int64_t cross = 0;
  const StoryGrammar grammar(0, "stories.test", StoryPart::held_out);
  for (int64_t n = 0; n < 20; ++n) {
    for (const auto& inferences : grammar.story(n).inferences) {
      for (const StoryInference& inference : inferences) cross += inference.cross_sentence() ? 1 : 0;
    }
  }
  for (const auto& settings : {std::vector<std::string>{}, kStorySentence, kStoryMemory, kStoryHard, kStoryRight}) {
    SCOPED_TRACE(settings.empty() ? "" : settings[0]);
    const auto task = make(settings);
    const auto optimizers = optimizers_of(*task);
    train(*task, *optimizers, 0, 2, 2);
    const Evaluation evaluation = evaluate(*task, false);
    ASSERT_EQ(evaluation.values.size(), task->measures().size());
    EXPECT_EQ(evaluation.details.at("inferences"), 20 * 45);
    EXPECT_EQ(evaluation.details.at("cross_inferences"), cross);
    const bool with_memory = settings == kStoryMemory || settings == kStoryHard || settings == kStoryRight;
    EXPECT_EQ(std::isnan(evaluation.values[6]), !with_memory);
    if (settings == kStoryRight) {
      EXPECT_EQ(evaluation.values[6], 1);
    }
    const Account account = task->account(evaluation, {});
    EXPECT_THAT(account.text, testing::HasSubstr("20 test stories, 900 inferences"));
    EXPECT_EQ(account.text.find("the best item has the deciding word") != std::string::npos, with_memory);
    EXPECT_EQ(task->infer(0), 20 * 45);
    EXPECT_EQ(task->infer(1), 20 * 45);
    int64_t dense = 0;
    for (const NamedParameter& parameter : task->dense_parameters()) dense += parameter.value.numel();
    EXPECT_EQ(config_->size().parameters_dense, dense);
  }
}

// What recipes/story-memory is about, with few steps: a sentence says what it says, and no more. Places and moods,
// which earlier sentences decide, are one of eight or seven.
TEST_F(StoriesTest, ASentenceAloneLearnsWhatItSays) {
  const auto task = make({"model.input=sentence", "train.batch=64", "optimizer.learning_rate=1e-2"});
  const auto optimizers = optimizers_of(*task);
  train(*task, *optimizers, 0, 400, 400);
  const Evaluation evaluation = evaluate(*task, false);
  EXPECT_GT(evaluation.values[1], 0.7);
  EXPECT_LT(evaluation.values[0], 0.4);
}

TEST_F(StoriesTest, RefusesWhatDoesNotFit) {
  expect_error(ExitCode::usage, "width must be a multiple of 2 * heads", [&] { make({"model.width=30"}); });
  expect_error(ExitCode::usage, "model.memory.temperature must be left out",
               [&] { make({"main:model.memory.mode=hard", "main:model.memory.temperature=0.1"}); });
  expect_error(ExitCode::usage, "data.test_stories", [&] { make({"data.test_stories=0"}); });
}

}  // namespace
}  // namespace loci
