#include "loci/data/text/dialogues.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "loci/base/check.h"
#include "tests/temporary_folder.h"

namespace loci {
namespace {

namespace fs = std::filesystem;
using Words = std::vector<std::string>;

class DialogueFiles : public testing::Test {
 protected:
  void write(const std::string& name, const std::string& text) const {
    fs::create_directories((folder_ / name).parent_path());
    std::ofstream(folder_ / name) << text;
  }
  Dialogues read(const Words& train, const Words& test) const { return read_dialogues(folder_.path(), {train, test}); }

  TemporaryFolder folder_;
  const std::string dialogue_ =
      R"({"fname": "dev_0", "dialogue": "#A#: Hi. How are you?\n#B#: Fine!", "summary": " They meet. "})";
  const std::string several_ = R"({"fname": "test_0", "dialogue": "#A#: Hi.", "summary1": "One.", "summary2": "Two."})";
  const std::string meeting_ =
      R"({"meeting_transcripts": [{"speaker": "Ann", "content": "First. Second."},)"
      R"({"speaker": "Bob", "content": "Third"}, {"speaker": "Ann", "content": "Last."}],)"
      R"("general_query_list": [], "specific_query_list": [)"
      R"({"query": "Who spoke?", "answer": "Both.", "relevant_text_span": [["0", "0"], ["2", "3"]]},)"
      R"({"query": "And then?", "answer": "Bob.", "relevant_text_span": [["1", "1"]]}]})";
};

TEST(Dialogues, UtterancesAreCutIntoSentences) {
  EXPECT_EQ(sentences_of("A: One. Two?  Three! 4.5 is no end"), (Words{"A: One.", "Two?", "Three!", "4.5 is no end"}));
  EXPECT_EQ(sentences_of(" \t "), Words());
  EXPECT_EQ(sentences_of("x"), Words{"x"});
}

TEST_F(DialogueFiles, DialoguesHaveTheirSentencesAndSummaries) {
  write("a.jsonl", dialogue_ + "\n\n" + several_);
  write("b.jsonl", several_);
  const Dialogues found = read({"a.jsonl"}, {"b.jsonl"});
  ASSERT_EQ(found.train.size(), 2);
  EXPECT_EQ(found.train[0].name, "dev_0");
  EXPECT_EQ(found.train[0].sentences, (Words{"#A#: Hi.", "How are you?", "#B#: Fine!"}));
  EXPECT_EQ(found.train[0].references, Words{"They meet."});
  ASSERT_EQ(found.test.size(), 1);
  EXPECT_EQ(found.test[0].references, (Words{"One.", "Two."}));
  EXPECT_EQ(found.inventory.files.size(), 2);
}

TEST_F(DialogueFiles, AQueryIsADialogueOfTheUtterancesItIsAbout) {
  write("train/m.json", meeting_);
  write("train/notes.txt", "no data");
  write("test.jsonl", meeting_ + "\n");
  const Dialogues found = read({"train"}, {"test.jsonl"});
  ASSERT_EQ(found.train.size(), 2);
  EXPECT_EQ(found.train[0].query, "Who spoke?");
  // A span that ends one behind the last utterance ends with it.
  EXPECT_EQ(found.train[0].sentences, (Words{"Ann: First.", "Second.", "Ann: Last."}));
  EXPECT_EQ(found.train[1].sentences, Words{"Bob: Third"});
  EXPECT_EQ(found.train[1].references, Words{"Bob."});
  EXPECT_TRUE(found.train[1].name.ends_with("m.json query 2"));
  EXPECT_EQ(found.test.size(), 2);
}

TEST_F(DialogueFiles, RefusesWhatIsMalformedWithFileAndLine) {
  write("good.jsonl", dialogue_);
  const auto refused = [&](const std::string& text, const std::string& message) {
    write("bad.jsonl", dialogue_ + "\n" + text);
    expect_error(ExitCode::input, message, [&] { read({"bad.jsonl"}, {"good.jsonl"}); });
  };
  refused("{", "bad.jsonl:2: a record must be a dialogue or a meeting with summaries, got ");
  refused(R"({"dialogue": 3})", "bad.jsonl:2: a record must be a dialogue");
  refused(R"({"dialogue": "x"})",
          "bad.jsonl:2: a dialogue must have a sentence and its summaries text, got 1 sentences");
  refused(R"({"dialogue": " ", "summary": "x"})", "bad.jsonl:2: a dialogue must have a sentence");
  refused(R"({"dialogue": "x", "summary": " "})", "bad.jsonl:2: a dialogue must have a sentence");
  refused(R"({"meeting_transcripts": [], "specific_query_list": [{"query": "", "answer": "a", )"
          R"("relevant_text_span": [["0", "0"]]}]})",
          "query 1: a relevant_text_span must be of the 0 utterances");
  refused(R"({"meeting_transcripts": [{"speaker": "a", "content": "b"}], "specific_query_list": [{"query": "", )"
          R"("answer": "a", "relevant_text_span": [["zero", "0"]]}]})",
          "query 1: a relevant_text_span must be two numbers of utterances, got [\"zero\",\"0\"]");
  write("empty.jsonl", "\n");
  expect_error(ExitCode::input, "data.train and data.test must have a dialogue each, got 0 and 1",
               [&] { read({"empty.jsonl"}, {"good.jsonl"}); });
  expect_error(ExitCode::usage, "data.train and data.test must be paths in the data folder, got ../x",
               [&] { read({"../x"}, {"good.jsonl"}); });
}

}  // namespace
}  // namespace loci
