#include "loci/data/text/labelled_texts.h"

#include <gtest/gtest.h>

#include <fstream>
#include <string>
#include <vector>

#include "tests/temporary_folder.h"

namespace loci {
namespace {

struct LabelledFolder {
  TemporaryFolder folder;
  LabelledTextOptions options;
  void write(const std::string& name, const std::string& text) const { std::ofstream(folder / name) << text; }
  LabelledTexts read() const { return read_labelled_texts(folder.path(), options); }
  void refused(const std::string& message) const {
    expect_error(ExitCode::input, message, [&] { read(); });
  }
};

TEST(LabelledTexts, ColumnsByHeaderWithMarkAndLineEndsOfWindows) {
  LabelledFolder data;
  data.write("train.tsv", "\xEF\xBB\xBFlabel\tid\ttext\r\nno\t1\t a \"quoted text\r\n\r\nyes\t2\tb\r\n");
  data.write("validation.tsv", "text\tlabel\nc\tyes\n");
  data.options.test = "test.tsv";
  data.write("test.tsv", "text\tlabel\nd\tno\ne\tno");
  const LabelledTexts texts = data.read();
  EXPECT_EQ(texts.classes, (std::vector<std::string>{"no", "yes"}));
  ASSERT_EQ(texts.train.size(), 2u);
  EXPECT_EQ(texts.train[0].text, " a \"quoted text");
  EXPECT_EQ(texts.train[0].label, 0);
  EXPECT_EQ(texts.train[1].label, 1);
  EXPECT_EQ(texts.validation.at(0).label, 1);
  EXPECT_EQ(texts.test.at(1).text, "e");
  EXPECT_EQ(texts.inventory.files.size(), 3u);
  const std::string key = texts.inventory.key();
  data.write("test.tsv", "text\tlabel\nd\tno\ne\tyes");
  EXPECT_NE(data.read().inventory.key(), key);
}

TEST(LabelledTexts, ColumnsByNumberHaveNoHeader) {
  LabelledFolder data;
  data.options.text = "3";
  data.options.pair = "1";
  data.options.label = "2";
  data.write("train.tsv", "one\t0\ttwo\nthree\t1\tfour\n");
  data.write("validation.tsv", "five\t1\tsix\n");
  const LabelledTexts texts = data.read();
  EXPECT_EQ(texts.train[0].text, "two");
  EXPECT_EQ(texts.train[0].pair, "one");
  EXPECT_EQ(texts.validation[0].label, 1);
  EXPECT_TRUE(texts.test.empty());
}

TEST(LabelledTexts, ObjectsByKey) {
  LabelledFolder data;
  data.options.train = "a.jsonl";
  data.write("a.jsonl",
             "{\"text\": \"x\\ty\", \"label\": 1}\n\n{\"label\": \"b\", \"text\": \"\\u00e4\", \"more\": []}\n");
  data.write("validation.tsv", "text\tlabel\nz\tb\n");
  const LabelledTexts texts = data.read();
  EXPECT_EQ(texts.classes, (std::vector<std::string>{"1", "b"}));
  EXPECT_EQ(texts.train[0].text, "x\ty");
  EXPECT_EQ(texts.train[1].text, "\xC3\xA4");
  data.write("a.jsonl", "{\"text\": \"x\", \"label\": true}\n{\"text\": \"y\", \"label\": \"b\"}\n");
  EXPECT_EQ(data.read().classes, (std::vector<std::string>{"b", "true"}));
  data.write("a.jsonl", "{\"text\": \"x\", \"label\": 1}\n{\"text\": \"y\", \"label\": 1.5}\n");
  data.refused("a.jsonl:2: \"label\" must be a text, got number");
  data.write("a.jsonl", "{\"text\": \"x\", \"label\": 1}\n{\"text\": 3, \"label\": 2}\n");
  data.refused("a.jsonl:2: \"text\" must be a text, got number");
  data.write("a.jsonl", "{\"text\": \"x\", \"label\": 1}\n{\"text\": \"x\"}\n");
  data.refused("a.jsonl:2: \"label\" must be a text, got nothing");
  data.write("a.jsonl", "{\"text\": \"x\", \"label\": 1}\n\n{\"text\": \"x\", \n");
  data.refused("a.jsonl:3: a line must be a JSON object, got {\"text\": \"x\", ");
  data.write("a.jsonl", "[1]\n");
  data.refused("a.jsonl:1: a line must be a JSON object, got [1]");
}

TEST(LabelledTexts, WhatIsMalformedIsNamedByFileAndLine) {
  LabelledFolder data;
  const std::string good = "text\tlabel\nx\ta\ny\tb\n";
  data.write("train.tsv", good);
  data.refused("validation.tsv: ");
  const std::vector<std::pair<std::string, std::string>> bad = {
      {"text\tlabel\nx\ta\n\ny\tb\tmore\n", "tsv:4: a line must have 2 columns between tabs, as the first, got 3"},
      {"text\tlabel\nx\n", "tsv:2: a line must have 2 columns between tabs, as the first, got 1"},
      {"text\tlabel\n\ta\n", "tsv:2: data.text \"text\" must not be empty, got nothing"},
      {"text\tlabel\nx\t\n", "tsv:2: data.label \"label\" must not be empty, got nothing"},
      {"text\tclass\nx\ta\n", "tsv:1: data.label \"label\" must be a column, got 2 columns: text\tclass"},
      {"text\tlabel\n", "tsv: the file must hold texts, got none"},
      {"", "tsv: the file must hold texts, got none"},
  };
  for (const char* part : {"train.tsv", "validation.tsv"}) {
    data.write("validation.tsv", good);
    data.write("train.tsv", good);
    for (const auto& [text, message] : bad) {
      data.write(part, text);
      SCOPED_TRACE(message);
      data.refused(printable(std::string(part).substr(0, std::string(part).size() - 3) + message));
    }
  }
  data.write("train.tsv", good);
  data.write("validation.tsv", good + "z\tc\n");
  data.refused("validation.tsv:4: the label must be one of those in train.tsv, got c");
  data.write("train.tsv", "text\tlabel\nx\ta\n");
  data.refused("train.tsv: texts must be of at least two labels, got a");
  data.options.text = "1";
  data.options.label = "3";
  data.refused("train.tsv:1: data.label \"3\" must be a column, got 2 columns");
}

TEST(LabelledTexts, ColumnsAreAllNumbersOrAllNames) {
  LabelledTextOptions options;
  options.check();
  options.text = "1";
  expect_error(ExitCode::usage, "must be all numbers or all names, got \"1\", \"\" and \"label\"",
               [&] { options.check(); });
  options.label = "2";
  options.check();
  options.pair = "other";
  expect_error(ExitCode::usage, "must be all numbers or all names", [&] { options.check(); });
  options.pair = "3";
  options.train = "";
  expect_error(ExitCode::usage, "data.train must be given, got \"\"", [&] { options.check(); });
}

TEST(LabelledTexts, TextsToPredictNeedNoLabel) {
  const TemporaryFolder folder;
  LabelledTextOptions options;
  std::ofstream(folder / "a.tsv") << "id\ttext\n7\thello\n";
  EXPECT_EQ(read_unlabelled_texts(folder / "a.tsv", options).at(0).text, "hello");
  std::ofstream(folder / "b.jsonl") << "{\"text\": \"there\"}\n";
  EXPECT_EQ(read_unlabelled_texts(folder / "b.jsonl", options).at(0).text, "there");
  std::ofstream(folder / "c.tsv") << "id\tname\n7\thello\n";
  expect_error(ExitCode::input, "c.tsv:1: data.text \"text\" must be a column",
               [&] { read_unlabelled_texts(folder / "c.tsv", options); });
}

TEST(LabelledTexts, TokensStandBetweenEndsAndTheLongerTextIsCut) {
  const Tokenizer bytes = Tokenizer::train({.kind = "bytes"}, 0, {});
  const int64_t e = 256;
  using Tokens = std::vector<int64_t>;
  EXPECT_EQ(tokens_of_text(bytes, {"ab", "", 0}, 9), (Tokens{e, 'a', 'b', e}));
  EXPECT_EQ(tokens_of_text(bytes, {"abcdef", "", 0}, 5), (Tokens{e, 'a', 'b', 'c', e}));
  EXPECT_EQ(tokens_of_text(bytes, {"ab", "c", 0}, 9), (Tokens{e, 'a', 'b', e, 'c', e}));
  EXPECT_EQ(tokens_of_text(bytes, {"abcdef", "wx", 0}, 8), (Tokens{e, 'a', 'b', 'c', e, 'w', 'x', e}));
  EXPECT_EQ(tokens_of_text(bytes, {"wx", "abcdef", 0}, 7), (Tokens{e, 'w', 'x', e, 'a', 'b', e}));
  EXPECT_EQ(tokens_of_text(bytes, {"abcdef", "uvwxyz", 0}, 8).size(), 8u);
  EXPECT_EQ(tokens_of_text(bytes, {"abcdef", "u", 0}, 5), (Tokens{e, 'a', e, 'u', e}));
  expect_error(ExitCode::usage, "text: the context must have at least 5 tokens, got 4",
               [&] { tokens_of_text(bytes, {"a", "b", 0}, 4); });
  expect_error(ExitCode::usage, "text: the context must have at least 3 tokens, got 2",
               [&] { tokens_of_text(bytes, {"a", "", 0}, 2); });
}

}  // namespace
}  // namespace loci
