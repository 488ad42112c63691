#include "loci/data/text/token_cache.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>

#include "loci/base/check.h"
#include "loci/base/durable_file.h"
#include "loci/base/utf8.h"

namespace loci {
namespace {

using ::testing::HasSubstr;
namespace fs = std::filesystem;

class TokenCacheTest : public testing::Test {
 protected:
  TokenCacheTest() : folder_(testing::TempDir() + "loci_token_cache_" + std::to_string(getpid())) {
    fs::remove_all(folder_);
    for (int i = 0; i < 40; ++i) {
      std::string text;
      for (int line = 0; line < 30; ++line)
        text += "text " + std::to_string(i) + " has line " + std::to_string(line) + "\n";
      write("text/" + std::to_string(i) + ".txt", text);
    }
    tokenizer_options_.vocabulary = 512;
    text_options_.validation_share = 0.2;
  }
  ~TokenCacheTest() override { fs::remove_all(folder_); }

  void write(const std::string& name, const std::string& text) {
    fs::create_directories((folder_ / name).parent_path());
    std::ofstream(folder_ / name, std::ios::binary) << text;
  }
  TokenData open() {
    ProgressLine quiet(true);
    return open_tokens(folder_ / "text", text_options_, tokenizer_options_, folder_ / "cache", quiet);
  }
  fs::path cache_file() {
    fs::path found;
    for (const auto& entry : fs::directory_iterator(folder_ / "cache")) found = entry.path();
    return found;
  }
  static std::vector<int32_t> all(const TokenSpan& span) {
    std::vector<int32_t> tokens;
    for (int64_t i = 0; i < span.size(); ++i) tokens.push_back(static_cast<int32_t>(span[i]));
    return tokens;
  }

  fs::path folder_;
  TextFolderOptions text_options_;
  TokenizerOptions tokenizer_options_;
};

TEST_F(TokenCacheTest, HoldsEveryTextOnceWithItsEnd) {
  const TokenData data = open();
  EXPECT_TRUE(data.rebuilt);
  const TextSplit split = split_text_files(list_text_files(folder_ / "text", text_options_), text_options_);
  std::vector<int32_t> train, validation;
  int64_t bytes = 0;
  for (const auto& [files, tokens] : {std::pair(&split.train, &train), std::pair(&split.validation, &validation)}) {
    for (const TextFile& file : *files) {
      const std::string text = read_text(file, text_options_);
      bytes += static_cast<int64_t>(text.size());
      const auto encoded = data.tokenizer.encode(text);
      tokens->insert(tokens->end(), encoded.begin(), encoded.end());
      tokens->push_back(data.tokenizer.end_of_text());
    }
  }
  EXPECT_EQ(all(data.train), train);
  EXPECT_EQ(all(data.validation), validation);
  EXPECT_EQ(data.train_bytes + data.validation_bytes, bytes);
  EXPECT_EQ(data.train_files, static_cast<int64_t>(split.train.size()));
  EXPECT_EQ(data.validation_files, static_cast<int64_t>(split.validation.size()));
  EXPECT_EQ(data.tokenizer.decode(validation).size(), static_cast<size_t>(data.validation_bytes));
}

TEST_F(TokenCacheTest, ComesFromTheCacheUntilContentsOrSettingsChange) {
  const std::vector<int32_t> first = all(open().train);
  TokenData data = open();
  EXPECT_FALSE(data.rebuilt);
  EXPECT_EQ(all(data.train), first);
  fs::last_write_time(folder_ / "text/3.txt", fs::file_time_type::clock::now());
  EXPECT_FALSE(open().rebuilt);
  write("text/3.txt", "changed\n");
  EXPECT_TRUE(open().rebuilt);
  fs::rename(folder_ / "text/3.txt", folder_ / "text/300.txt");
  EXPECT_TRUE(open().rebuilt);
  text_options_.split_seed = 5;
  EXPECT_TRUE(open().rebuilt);
  tokenizer_options_.vocabulary = 520;
  EXPECT_TRUE(open().rebuilt);
  EXPECT_FALSE(open().rebuilt);
}

TEST_F(TokenCacheTest, BuildsADamagedCacheAnewAndSaysSo) {
  tokenizer_options_.kind = "bytes";
  const std::vector<int32_t> expected = all(open().train);
  const fs::path path = cache_file();
  const std::string good = read_text_file(path);
  std::vector<std::string> bad = {"",
                                  "short",
                                  good.substr(0, good.size() / 2),
                                  good.substr(0, good.size() - 1),
                                  good + "x",
                                  std::string(good.size(), '\0')};
  for (size_t at : {size_t{0}, size_t{9}, good.size() / 2, good.size() - 140, good.size() - 100, good.size() - 1}) {
    bad.push_back(good);
    bad.back()[at] = static_cast<char>(bad.back()[at] ^ 1);
  }
  for (const std::string& bytes : bad) {
    write("cache/" + path.filename().string(), bytes);
    const TokenData data = open();
    EXPECT_TRUE(data.rebuilt);
    EXPECT_THAT(data.notices, testing::Contains(HasSubstr("was damaged and is built anew")));
    EXPECT_EQ(all(data.train), expected);
    EXPECT_EQ(read_text_file(path), good);
  }
}

TEST_F(TokenCacheTest, IsTheSameFileForAnyNumberOfThreads) {
  open();
  const std::string many = read_text_file(cache_file());
  fs::remove_all(folder_ / "cache");
  cpu_set_t before, one;
  sched_getaffinity(0, sizeof(before), &before);
  CPU_ZERO(&one);
  for (int cpu = 0; CPU_COUNT(&one) == 0; ++cpu) {
    if (CPU_ISSET(cpu, &before)) CPU_SET(cpu, &one);
  }
  sched_setaffinity(0, sizeof(one), &one);
  open();
  sched_setaffinity(0, sizeof(before), &before);
  EXPECT_EQ(read_text_file(cache_file()), many);
}

TEST_F(TokenCacheTest, ServesProcessesThatBuildItAtOnce) {
  std::vector<pid_t> children;
  for (int i = 0; i < 4; ++i) {
    const pid_t child = fork();
    if (child == 0) {
      try {
        std::_Exit(open().train.size() > 100 ? 0 : 1);
      } catch (...) {
        std::_Exit(2);
      }
    }
    children.push_back(child);
  }
  for (pid_t child : children) {
    int status = -1;
    waitpid(child, &status, 0);
    EXPECT_EQ(status, 0);
  }
  EXPECT_FALSE(open().rebuilt);
  EXPECT_EQ(std::distance(fs::directory_iterator(folder_ / "cache"), {}), 1);
}

TEST_F(TokenCacheTest, TakesATokenizerThatExists) {
  const TokenData trained = open();
  ProgressLine quiet(true);
  const auto with_it = [&] {
    return open_tokens(folder_ / "text", text_options_, Tokenizer::load(trained.tokenizer.save()), folder_ / "cache",
                       quiet);
  };
  const TokenData again = with_it();
  EXPECT_TRUE(again.rebuilt);
  EXPECT_EQ(all(again.validation), all(trained.validation));
  EXPECT_FALSE(with_it().rebuilt);
}

TEST_F(TokenCacheTest, LearnsTheTokenizerFromTheTrainingPartAlone) {
  const TextSplit split = split_text_files(list_text_files(folder_ / "text", text_options_), text_options_);
  const std::string before = open().tokenizer.save();
  std::ofstream(split.validation[0].path) << "entirely other words stand here, only in validation\n";
  EXPECT_EQ(open().tokenizer.save(), before);
  std::ofstream(split.train[0].path) << "zyzzyva zyzzyva zyzzyva zyzzyva\n";
  EXPECT_NE(open().tokenizer.save(), before);
}

TEST_F(TokenCacheTest, TellsWhatItLeftOutAlsoFromTheCache) {
  write("text/x.bin", std::string(5, '\0'));
  write("text/copy.txt", read_text_file(folder_ / "text/0.txt"));
  write("text/latin.txt", "caf\xE9\n");
  for (bool rebuilt : {true, false}) {
    const TokenData data = open();
    EXPECT_EQ(data.rebuilt, rebuilt);
    EXPECT_THAT(data.notices, testing::Contains(HasSubstr("1 binary files")));
    EXPECT_THAT(data.notices, testing::Contains(HasSubstr("1 files with the same bytes")));
    EXPECT_THAT(data.notices, testing::Contains(HasSubstr("1 places are not valid UTF-8")));
  }
  text_options_.encoding_errors = "error";
  EXPECT_THROW(open(), Error);
  EXPECT_EQ(std::distance(fs::directory_iterator(folder_ / "cache"), {}), 1);
}

TEST_F(TokenCacheTest, NamesACacheFolderThatCannotBe) {
  write("cache", "a file stands here");
  try {
    open();
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::input);
    EXPECT_THAT(error.what(), HasSubstr("the cache folder must be creatable"));
  }
}

TEST_F(TokenCacheTest, WidensTokensForALargeVocabulary) {
  std::string text;  // characters on lines of their own: a token for each, and nothing to merge
  for (char32_t scalar = 0x20000; scalar < 0x20000 + 66000; ++scalar) {
    append_utf8(text, scalar);
    text += '\n';
  }
  write("text/many.txt", text);
  tokenizer_options_.vocabulary = 140'000;
  tokenizer_options_.character_coverage = 1;
  const TokenData data = open();
  EXPECT_GT(data.tokenizer.vocabulary(), 65536);
  EXPECT_EQ(data.tokenizer.decode(all(data.train)).size(), static_cast<size_t>(data.train_bytes));
}

}  // namespace
}  // namespace loci
