#include "loci/data/text/tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

#include "loci/base/check.h"
#include "loci/base/utf8.h"

namespace loci {
namespace {

std::string source_code() {
  std::string text;
  for (int i = 0; i < 300; ++i) {
    text += "def function_" + std::to_string(i % 17) + "(self, value):\n    if value is None:\n        return " +
            std::to_string(i) + "\n\n\treturn self.value  # a comment\r\n";
  }
  return text;
}

Tokenizer train(const std::vector<std::string>& texts, TokenizerOptions options = {.vocabulary = 600}) {
  size_t next = 0;
  int64_t total = 0;
  for (const std::string& text : texts) total += static_cast<int64_t>(text.size());
  return Tokenizer::train(options, total, [&](std::string& text) {
    if (next == texts.size()) return false;
    text = texts[next++];
    return true;
  });
}

const Tokenizer& code_tokenizer() {
  static const Tokenizer tokenizer = train({source_code()});
  return tokenizer;
}

TEST(TokenizerTest, RoundTripsCodeExactlyInFewerTokens) {
  const std::string text = source_code();
  const auto tokens = code_tokenizer().encode(text);
  EXPECT_EQ(code_tokenizer().decode(tokens), text);
  EXPECT_LT(tokens.size(), text.size() / 3);
  EXPECT_LE(code_tokenizer().vocabulary(), 600);
}

TEST(TokenizerTest, RoundTripsEveryCharacterAndHostileText) {
  std::string all;
  for (char32_t scalar = 0; scalar < 0x30000; ++scalar) {
    if (scalar < 0xD800 || scalar >= 0xE000) append_utf8(all, scalar);
  }
  std::string noise;
  for (uint32_t i = 0, state = 1; i < 20000; ++i) {
    state = state * 1664525 + 1013904223;
    noise += static_cast<char>(state >> 24);
  }
  const Tokenizer bytes = train({}, {.kind = "bytes"});
  for (const std::string& text :
       {all, noise, std::string(), std::string(1, '\0'), std::string("  leading and trailing  "),
        std::string(5000, ' '), std::string(20000, 'a'), std::string("\n\n\n"), std::string("\t\t x"),
        std::string("<s></s><unk><0x41>"),
        std::string("a\xE2\x96\x81"
                    "b \xE2\x96\x85 \xE2\x96\x81"),
        std::string("\r\n\r"), std::string("\xEF\xBB\xBFx"), std::string("e\xCC\x81 \xE3\x80\x80 \xEF\xBC\xA1")}) {
    EXPECT_TRUE(code_tokenizer().decode(code_tokenizer().encode(text)) == text) << text.substr(0, 40);
    EXPECT_TRUE(bytes.decode(bytes.encode(text)) == text) << text.substr(0, 40);
  }
}

TEST(TokenizerTest, NeverGivesTheEndOfTextForText) {
  for (const Tokenizer& tokenizer : {code_tokenizer(), train({}, {.kind = "bytes"})}) {
    const int32_t end = tokenizer.end_of_text();
    EXPECT_EQ(tokenizer.bytes_of(end), "");
    EXPECT_LT(end, tokenizer.vocabulary());
    EXPECT_THAT(tokenizer.encode("</s> <s> end"), testing::Not(testing::Contains(end)));
    EXPECT_EQ(tokenizer.decode(std::vector<int32_t>{end, tokenizer.encode("x")[0], end}), "x");
  }
}

TEST(TokenizerTest, IsTheSameEachTimeAndAfterSaving) {
  const Tokenizer again = train({source_code()});
  EXPECT_EQ(again.save(), code_tokenizer().save());
  const Tokenizer loaded = Tokenizer::load(again.save());
  EXPECT_EQ(loaded.save(), again.save());
  EXPECT_EQ(loaded.encode(source_code()), again.encode(source_code()));
  EXPECT_EQ(loaded.vocabulary(), again.vocabulary());
}

TEST(TokenizerTest, CachedWordsGiveTheSameTokens) {
  Tokenizer::WordCache cache;
  std::vector<int32_t> twice;
  code_tokenizer().encode(source_code(), cache, twice);
  code_tokenizer().encode(source_code(), cache, twice);
  std::vector<int32_t> expected = code_tokenizer().encode(source_code());
  const std::vector<int32_t> once = expected;
  expected.insert(expected.end(), once.begin(), once.end());
  EXPECT_EQ(twice, expected);
}

TEST(TokenizerTest, LearnsFromAnEvenSampleOnly) {
  std::vector<std::string> texts;
  for (int i = 0; i < 400; ++i) texts.push_back("common words everywhere\n" + std::string(1000, 'a' + i % 2) + "\n");
  texts.push_back("zyzzyva zyzzyva zyzzyva\n");
  const Tokenizer tokenizer = train(texts, {.vocabulary = 600, .training_bytes = 20000});
  EXPECT_EQ(tokenizer.decode(tokenizer.encode(texts[0])), texts[0]);
  EXPECT_LT(tokenizer.encode("common words everywhere\n").size(), 10u);
}

TEST(TokenizerTest, SamplesTextWithoutLineEndsOrSpaces) {
  std::string words, solid;
  for (int i = 0; words.size() < 200000; ++i) {
    words += "word" + std::to_string(i % 50) + " ";
    solid += "word" + std::to_string(i % 50);
  }
  for (const std::string& text : {words, solid}) {
    const Tokenizer tokenizer = train({text}, {.vocabulary = 600, .training_bytes = 50000});
    EXPECT_LT(tokenizer.encode(text).size(), text.size() / 2);
    EXPECT_EQ(tokenizer.decode(tokenizer.encode(text)), text);
  }
}

TEST(TokenizerTest, TakesTextWithMoreCharactersThanTokens) {
  std::string text;
  for (int round = 0; round < 3; ++round) {
    for (char32_t scalar = 0x4E00; scalar < 0x6E00; ++scalar) {
      append_utf8(text, scalar);
      if (scalar % 20 == 0) text += "\n";
    }
  }
  const Tokenizer tokenizer = train({text});
  EXPECT_LE(tokenizer.vocabulary(), 600);
  EXPECT_EQ(tokenizer.decode(tokenizer.encode(text)), text);
}

TEST(TokenizerTest, TakesATinyText) {
  for (const char* text : {"a", "\n", "\t", "ab ab ab", "\xE2\x96\x85x"}) {
    const std::string whole = std::string(text) + "!";
    const Tokenizer tokenizer = train({whole}, {});
    EXPECT_LE(tokenizer.vocabulary(), 4096);
    EXPECT_EQ(tokenizer.decode(tokenizer.encode("else \n")), "else \n");
  }
}

TEST(TokenizerTest, RefusesNoTextForeignModelsAndForeignTokens) {
  const auto refused = [](auto action) {
    try {
      action();
    } catch (const Error& error) {
      return error.code() == ExitCode::input;
    }
    return false;
  };
  EXPECT_TRUE(refused([] { train({}); }));
  EXPECT_TRUE(refused([] { train({std::string(10, '\0')}); }));
  const std::string saved = code_tokenizer().save();
  for (const std::string& bad : {std::string(), std::string("{}"), saved.substr(0, 21),
                                 saved.substr(0, saved.size() / 2), "loci-tokenizer 1 bpe\n" + std::string(100, 'x')}) {
    EXPECT_TRUE(refused([&] { Tokenizer::load(bad); })) << bad.size();
  }
  EXPECT_TRUE(refused([] { code_tokenizer().bytes_of(-1); }));
  EXPECT_TRUE(refused([] { code_tokenizer().bytes_of(600); }));
}

TEST(StreamDecoderTest, GivesWholeCharactersOnly) {
  const Tokenizer tokenizer = train({}, {.kind = "bytes"});
  StreamDecoder decoder(tokenizer);
  std::vector<std::string> parts;
  for (int32_t token : tokenizer.encode("a\xF0\x9F\x98\x80\xC3x")) parts.push_back(decoder.push(token));
  EXPECT_THAT(parts, testing::ElementsAre("a", "", "", "", "\xF0\x9F\x98\x80", "", "\xEF\xBF\xBDx"));
  EXPECT_EQ(decoder.finish(), "");
  decoder.push(0xE2);
  decoder.push(0x82);
  EXPECT_EQ(decoder.finish(), "\xEF\xBF\xBD");
  EXPECT_EQ(decoder.finish(), "");
}

}  // namespace
}  // namespace loci
