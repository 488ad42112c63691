#include "loci/data/text/token_cache.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <fstream>
#include <map>

#include "loci/base/check.h"
#include "loci/base/durable_file.h"
#include "loci/base/stop_signal.h"
#include "loci/base/utf8.h"
#include "loci/data/text/encode_texts.h"

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
  // Each file of the cache with its number on the disk, which changes when it is written anew.
  std::map<std::string, ino_t> cached() {
    std::map<std::string, ino_t> files;
    if (!fs::exists(folder_ / "cache")) return files;
    for (const auto& entry : fs::directory_iterator(folder_ / "cache")) {
      struct stat status = {};
      EXPECT_EQ(stat(entry.path().c_str(), &status), 0);
      files[entry.path().filename().string()] = status.st_ino;
    }
    return files;
  }
  fs::path cached_file(const std::string& start) {
    fs::path found;
    for (const auto& [name, number] : cached()) {
      if (name.starts_with(start)) found = folder_ / "cache" / name;
    }
    return found;
  }
  // Whether opening wrote to the cache.
  bool rebuilds() {
    const auto before = cached();
    open();
    return cached() != before;
  }
  TextSplit split() {
    ProgressLine quiet(true);
    return split_text_files(list_text_files(folder_ / "text", text_options_), text_options_, quiet);
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
  const TextSplit split = this->split();
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
  EXPECT_TRUE(rebuilds());
  const std::vector<int32_t> first = all(open().train);
  EXPECT_FALSE(rebuilds());
  EXPECT_EQ(all(open().train), first);
  fs::last_write_time(folder_ / "text/3.txt", fs::file_time_type::clock::now());
  EXPECT_FALSE(rebuilds());
  write("text/3.txt", "changed\n");
  EXPECT_TRUE(rebuilds());
  fs::rename(folder_ / "text/3.txt", folder_ / "text/300.txt");
  EXPECT_TRUE(rebuilds());
  text_options_.split_seed = 5;
  EXPECT_TRUE(rebuilds());
  tokenizer_options_.vocabulary = 520;
  EXPECT_TRUE(rebuilds());
  EXPECT_FALSE(rebuilds());
}

TEST_F(TokenCacheTest, StaysAsItWasOpened) {
  text_options_.validation_share = 0.5;
  const TokenData data = open();
  const std::vector<int32_t> train = all(data.train);
  const std::string key = data.key;
  fs::remove_all(folder_ / "cache");
  write("text/0.txt", "shorter\n");
  write("text/1.txt", std::string(5000, 'x'));
  EXPECT_EQ(all(data.train), train);
  EXPECT_NE(open().key, key);
}

TEST_F(TokenCacheTest, SaysWhatChangedBetweenTwoKeys) {
  const std::string before = open().key;
  EXPECT_EQ(open().key, before);
  EXPECT_THAT(before, testing::MatchesRegex("40 files, [0-9]+ bytes, [0-9a-f]{32}"));
  write("text/3.txt", "changed\n");
  fs::remove(folder_ / "text/5.txt");
  write("text/new.txt", "new\n");
  const std::string now = open().key;
  EXPECT_EQ(changes_of_data(before, now, folder_ / "cache"),
            "1 file changed (3.txt); 1 file added (new.txt); 1 file missing (5.txt)");
  EXPECT_EQ(changes_of_data(before, now, folder_ / "another cache"), "");
  EXPECT_EQ(changes_of_data("", "no key", folder_ / "cache"), "");
  write("cache/" + cached_file("files-").filename().string(), "damaged");
  EXPECT_EQ(changes_of_data(before, now, folder_ / "cache"), "");
}

// A file that changes after its checksum was taken: neither half of it may get into the cache.
TEST_F(TokenCacheTest, RefusesAFileThatChangesWhileItIsRead) {
  const TextSplit split = this->split();
  write("text/3.txt", "changed\n");
  const Tokenizer bytes = Tokenizer::train({.kind = "bytes"}, 0, [](std::string&) { return false; });
  ProgressLine quiet(true);
  try {
    encode_texts(split, text_options_, bytes, std::string(32, '0'), [](std::span<const std::byte>) {}, quiet);
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::input);
    EXPECT_THAT(error.what(), HasSubstr("3.txt: the file must stay as it is while it is read"));
  }
}

TEST_F(TokenCacheTest, BuildsADamagedCacheAnewAndSaysSo) {
  tokenizer_options_.kind = "bytes";
  const std::vector<int32_t> expected = all(open().train);
  const fs::path path = cached_file("tokens-");
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
    EXPECT_THAT(data.notices, testing::Contains(HasSubstr("was damaged and is made anew")));
    EXPECT_EQ(all(data.train), expected);
    EXPECT_EQ(read_text_file(path), good);
  }
}

TEST_F(TokenCacheTest, IsTheSameFileForAnyNumberOfThreads) {
  open();
  const std::string many = read_text_file(cached_file("tokens-"));
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
  EXPECT_EQ(read_text_file(cached_file("tokens-")), many);
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
  EXPECT_FALSE(rebuilds());
  EXPECT_EQ(cached().size(), 3u) << "files, tokenizer and tokens";
}

TEST_F(TokenCacheTest, ATokenizerThatExistsSharesTheTokens) {
  const TokenData trained = open();
  const auto before = cached();
  ProgressLine quiet(true);
  const TokenData again =
      open_tokens(folder_ / "text", text_options_, Tokenizer::load(trained.tokenizer.save()), folder_ / "cache", quiet);
  EXPECT_EQ(all(again.validation), all(trained.validation));
  EXPECT_EQ(again.key, trained.key);
  EXPECT_EQ(cached(), before);
}

TEST_F(TokenCacheTest, LearnsADamagedTokenizerAnew) {
  const std::string learned = open().tokenizer.save();
  const fs::path path = cached_file("tokenizer-");
  std::string bytes = read_text_file(path);
  bytes[bytes.size() / 2] ^= 1;
  for (const std::string& bad : {bytes, std::string(), std::string("x"), bytes.substr(0, 40)}) {
    write("cache/" + path.filename().string(), bad);
    EXPECT_EQ(open().tokenizer.save(), learned);
    EXPECT_NE(read_text_file(path), bad);
  }
}

TEST_F(TokenCacheTest, LearnsTheTokenizerFromTheTrainingPartAlone) {
  const TextSplit split = this->split();
  const std::string before = open().tokenizer.save();
  std::ofstream(split.validation[0].path) << "entirely other words stand here, only in validation\n";
  EXPECT_EQ(open().tokenizer.save(), before);
  std::ofstream(split.train[0].path) << "zyzzyva zyzzyva zyzzyva zyzzyva\n";
  EXPECT_NE(open().tokenizer.save(), before);
}

TEST_F(TokenCacheTest, TellsWhatItLeftOutAlsoFromTheCache) {
  write("text/x.bin", std::string(5, '\0'));
  write("text/copy.txt", read_text_file(folder_ / "text/0.txt"));
  for (const char* name : {"latin.txt", "latin2.txt", "latin3.txt", "latin4.txt"}) {
    write(std::string("text/") + name, name + std::string(" caf\xE9 na\xEFve\n"));
  }
  tokenizer_options_.vocabulary = 4000;
  std::vector<std::vector<std::string>> notices;
  for (int i = 0; i < 2; ++i) notices.push_back(open().notices);
  EXPECT_THAT(notices[0],
              testing::UnorderedElementsAre(
                  "left out: 1 binary files (x.bin)", "left out: 1 files with the same bytes as another (copy.txt)",
                  testing::MatchesRegex("8 places are not valid text and became U.FFFD, in 4 files "
                                        ".latin[2-4]?.txt: 2, latin[2-4]?.txt: 2, latin[2-4]?.txt: 2 \\.\\.\\.."),
                  testing::MatchesRegex("the tokenizer has [0-9]+ tokens, fewer than tokenizer.vocabulary = 4000.*")));
  EXPECT_EQ(notices[1], notices[0]);
  text_options_.encoding_errors = "error";
  const size_t before = cached().size();
  EXPECT_THROW(open(), Error);
  EXPECT_EQ(cached().size(), before + 1) << "the list of files alone";
}

// What stands in the way of the cache: a file, a folder that may not be written.
TEST_F(TokenCacheTest, GoesOnWithoutACacheFolder) {
  const std::vector<int32_t> expected = all(open().train);
  fs::remove_all(folder_ / "cache");
  write("cache", "a file stands here");
  const TokenData data = open();
  EXPECT_EQ(all(data.train), expected);
  EXPECT_THAT(data.notices, testing::Contains(testing::AllOf(HasSubstr("without a cache"),
                                                             HasSubstr("the folder must be creatable"))));
  EXPECT_EQ(read_text_file(folder_ / "cache"), "a file stands here");
}

TEST_F(TokenCacheTest, GoesOnWhenTheDiskIsFull) {
  const std::vector<int32_t> expected = all(open().train);
  fs::remove_all(folder_ / "cache");
  signal(SIGXFSZ, SIG_IGN);
  struct rlimit before = {};
  getrlimit(RLIMIT_FSIZE, &before);
  const struct rlimit small = {8192, before.rlim_max};  // the list of files fits, the tokens do not
  setrlimit(RLIMIT_FSIZE, &small);
  const TokenData data = open();
  setrlimit(RLIMIT_FSIZE, &before);
  EXPECT_EQ(all(data.train), expected);
  EXPECT_THAT(data.notices, testing::Contains(testing::AllOf(HasSubstr("without a cache"), HasSubstr("tokens-"))));
  EXPECT_EQ(cached_file("."), "") << "half a file";
}

TEST_F(TokenCacheTest, StopsAtASignalAndLeavesNothing) {
  const StopSignal signals("stopping");
  std::raise(SIGTERM);
  EXPECT_THROW(open(), Interrupted);
  EXPECT_EQ(cached_file("tokens-"), "");
  EXPECT_EQ(cached_file("."), "");
}

TEST_F(TokenCacheTest, RemovesWhatAKilledProcessLeft) {
  write("cache/.tokens-0.bin.tmp-1", "old");
  write("cache/.tokens-0.bin.tmp-2", "being written");
  write("cache/note.txt", "of the user");
  const auto old = fs::file_time_type::clock::now() - std::chrono::hours(2);
  fs::last_write_time(folder_ / "cache/.tokens-0.bin.tmp-1", old);
  fs::last_write_time(folder_ / "cache/note.txt", old);
  open();
  EXPECT_FALSE(fs::exists(folder_ / "cache/.tokens-0.bin.tmp-1"));
  EXPECT_TRUE(fs::exists(folder_ / "cache/.tokens-0.bin.tmp-2"));
  EXPECT_TRUE(fs::exists(folder_ / "cache/note.txt"));
}

// Files are encoded in slices of 1 MiB that end at line ends.
TEST_F(TokenCacheTest, SlicesOfALargeFileChangeNothing) {
  std::string text;
  for (int i = 0; text.size() < (5 << 20); ++i) {
    text += "line " + std::to_string(i % 300) + std::string(i % 4 + 1, '\n') + std::string(i % 3, ' ');
  }
  write("text/large.txt", text);
  write("text/large2.txt", text + "other\n");  // so that neither is cut into blocks
  const TokenData data = open();
  std::vector<int32_t> train, validation;
  const TextSplit split = this->split();
  for (const auto& [files, tokens] : {std::pair(&split.train, &train), std::pair(&split.validation, &validation)}) {
    for (const TextFile& file : *files) {
      ASSERT_FALSE(file.block);
      const auto encoded = data.tokenizer.encode(read_text(file, text_options_));
      tokens->insert(tokens->end(), encoded.begin(), encoded.end());
      tokens->push_back(data.tokenizer.end_of_text());
    }
  }
  EXPECT_EQ(all(data.train), train);
  EXPECT_EQ(all(data.validation), validation);
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
