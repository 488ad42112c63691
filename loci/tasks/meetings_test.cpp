#include "loci/tasks/meetings.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "tests/task_test.h"

namespace loci {
namespace {

namespace fs = std::filesystem;

constexpr const char* kMeetingsRecipe = R"(
task = "meetings"
[data]
train = ["train.jsonl"]
test = ["test.jsonl"]
sentences = 4
sentence_tokens = 12
summary_tokens = 16
[tokenizer]
kind = "bytes"
[model]
slots = 2
embedding = 12
width = 24
[train]
batch = 6
precision = "float32"
[optimizer]
learning_rate = 1e-2
weight_decay = 0
[optimizer.schedule]
warmup = 0
)";

class MeetingsTest : public TaskTest {
 protected:
  MeetingsTest() : TaskTest(kMeetingsRecipe) {
    std::ofstream train(folder_ / "train.jsonl"), test(folder_ / "test.jsonl");
    const auto asks = [](const std::string& who, const std::string& what) {
      return fmt::format(R"("dialogue": "{}: I want {}.\nD: Here.")", who, what);
    };
    for (const char* who : {"Ann", "Bob", "Cy"}) {
      for (const char* what : {"tea", "rye"}) {
        train << "{" << asks(who, what) << fmt::format(R"(, "summary": "{} has {}."}})", who, what) << "\n";
      }
    }
    test << "{" << asks("Bob", "rye") << R"(, "fname": "t", "summary1": "Bob has rye.", "summary2": "Rye."})";
  }
  std::unique_ptr<Task> make(const std::vector<std::string>& settings = {}, const fs::path& checkpoint = {}) {
    return make_task(settings, folder_.path(), checkpoint);
  }
  TemporaryFolder folder_;
};

TEST_F(MeetingsTest, LearnsToSummariseAndWritesWhatRougeReads) {
  const auto task = make();
  const auto optimizers = optimizers_of(*task);
  EXPECT_NEAR(evaluate(*task, false).values[0], std::log(260), 0.7);  // bytes, an end of text, none, begin, end
  train(*task, *optimizers, 0, 150, 150);
  const Evaluation evaluation = evaluate(*task, false);
  EXPECT_LT(evaluation.values[0], 0.2);
  EXPECT_EQ(evaluation.details.at("tokens"), 13);
  const Account account = task->account(evaluation, {});
  const nlohmann::json summaries = account.json.at("summaries");
  ASSERT_EQ(summaries.size(), 1);
  EXPECT_EQ(summaries[0].at("name"), "t");
  EXPECT_EQ(summaries[0].at("written"), "Bob has rye.");
  EXPECT_EQ(summaries[0].at("lead"), "Bob: I want rye. D: Here.");
  EXPECT_EQ(summaries[0].at("references"), nlohmann::json({"Bob has rye.", "Rye."}));
  EXPECT_THAT(account.text, testing::HasSubstr("first summary: Bob has rye."));
  EXPECT_EQ(task->infer(3), 1);
}

// What is read of a dialogue and written of a summary ends where the data options say.
TEST_F(MeetingsTest, TextsAreCut) {
  const auto whole = make(), cut = make({"data.sentences=1", "data.sentence_tokens=5", "data.summary_tokens=5"});
  EXPECT_EQ(evaluate(*whole, false).details.at("tokens"), 13);
  const Evaluation evaluation = evaluate(*cut, false);
  EXPECT_EQ(evaluation.details.at("tokens"), 5);
  EXPECT_LE(cut->account(evaluation, {}).json.at("summaries")[0].at("written").get<std::string>().size(), 3 * 5);
}

// Four sentences are read, and three are the lead.
TEST_F(MeetingsTest, AQueryIsTheFirstSentenceAndNoPartOfTheLead) {
  std::ofstream(folder_ / "meeting.json")
      << R"({"meeting_transcripts": [{"speaker": "Ann", "content": "One. Two. 3. 4."}], "specific_query_list": [)"
      << R"({"query": "What?", "answer": "Both.", "relevant_text_span": [["0", "0"]]}]})";
  const auto task = make({R"(data.test=["meeting.json"])"});
  const auto opened = std::dynamic_pointer_cast<const OpenedDialogues>(task->opened_data());
  std::vector<std::string> read;
  for (const auto& sentence : opened->test.at(0).sentences) {
    std::vector<int32_t> tokens;
    for (const int64_t word : sentence) tokens.push_back(static_cast<int32_t>(word - 3));
    read.push_back(opened->tokenizer.decode(tokens));
  }
  EXPECT_EQ(read, (std::vector<std::string>{"What?", "Ann: One.", "Two.", "3."}));
  const Account account = task->account(evaluate(*task, false), {});
  EXPECT_EQ(account.json.at("summaries")[0].at("lead"), "Ann: One. Two. 3.");
}

TEST_F(MeetingsTest, GoesOnBitForBit) {
  for (const char* memory : {"read_write", "attention"}) {
    expect_resume_bit_for_bit(
        [&](const fs::path& checkpoint) { return make({fmt::format("model.memory={}", memory)}, checkpoint); });
  }
}

TEST_F(MeetingsTest, ThePlannedSizesAreThoseOfTheModel) {
  const auto task = make();
  int64_t count = 0;
  for (const NamedParameter& parameter : task->dense_parameters()) count += parameter.value.numel();
  EXPECT_EQ(config_->plan->size(config_->batch(), {}, false).parameters_dense, count);
}

}  // namespace
}  // namespace loci
