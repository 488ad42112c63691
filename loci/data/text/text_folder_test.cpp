#include "loci/data/text/text_folder.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmath>
#include <fstream>
#include <functional>
#include <set>

#include "loci/base/check.h"
#include "loci/base/utf8.h"

namespace loci {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
namespace fs = std::filesystem;

class TextFolderTest : public testing::Test {
 protected:
  TextFolderTest() : folder_(testing::TempDir() + "loci_text_folder_" + std::to_string(getpid())) {
    fs::remove_all(folder_);
    fs::create_directories(folder_);
  }
  ~TextFolderTest() override { fs::remove_all(folder_); }

  fs::path write(const std::string& name, const std::string& text) {
    fs::create_directories((folder_ / name).parent_path());
    std::ofstream(folder_ / name, std::ios::binary) << text;
    return folder_ / name;
  }
  static std::vector<std::string> names(const std::vector<TextFile>& files) {
    std::vector<std::string> result;
    for (const TextFile& file : files) result.push_back(file.name);
    return result;
  }
  std::string read(const std::string& bytes, int64_t* replaced = nullptr) {
    write("only/a.txt", bytes);
    write("only/b.txt", "other");
    return read_text(list_text_files(folder_ / "only", options_).files.at(0), options_, replaced);
  }
  TextSplit split_of(const TextFileList& list) {
    ProgressLine quiet(true);
    return split_text_files(list, options_, quiet);
  }
  static void expect_refused(const std::string& part, const std::function<void()>& action) {
    try {
      action();
      FAIL() << "no error with " << part;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ExitCode::input);
      EXPECT_THAT(error.what(), HasSubstr(part));
    }
  }

  fs::path folder_;
  TextFolderOptions options_;
};

TEST_F(TextFolderTest, ListsTextInSubfoldersByNameAndCountsTheRest) {
  write("b.txt", std::string(70000, 'b'));
  write("a/z.py", "z");
  write("a-b.md", "m");
  write(".git/config", "hidden");
  write("a/.secret", "hidden");
  write("picture.png", std::string("\x89PNG\0\0", 6));
  write("late_nul.txt", std::string(70000, 'x') + std::string(1, '\0'));
  write("empty.txt", "");
  write("only_bom.txt", "\xEF\xBB\xBF");
  fs::create_symlink(folder_ / "nowhere", folder_ / "dangling");
  fs::create_directory_symlink(folder_, folder_ / "a" / "loop");
  ASSERT_EQ(mkfifo((folder_ / "pipe").c_str(), 0600), 0);
  const TextFileList list = list_text_files(folder_, options_);
  EXPECT_THAT(names(list.files), ElementsAre("a-b.md", "a/z.py", "b.txt", "late_nul.txt"));
  EXPECT_EQ(list.hidden.count, 2);
  EXPECT_EQ(list.binary.count, 1);
  EXPECT_EQ(list.empty.count, 2);
  EXPECT_EQ(list.links.count, 3);
}

TEST_F(TextFolderTest, FollowsLinksToTextOnce) {
  write("real/a.txt", "a");
  write("real/b.txt", "b");
  write("root/c.txt", "c");
  fs::create_directory_symlink(folder_ / "real", folder_ / "root" / "x");
  fs::create_directory_symlink(folder_ / "real", folder_ / "root" / "y");
  fs::create_symlink(folder_ / "real" / "b.txt", folder_ / "root" / "linked.txt");
  EXPECT_THAT(names(list_text_files(folder_ / "root", options_).files),
              ElementsAre("c.txt", "linked.txt", "x/a.txt", "x/b.txt"));
}

TEST_F(TextFolderTest, KeepsToTheExtensionsInAnyCase) {
  write("a.py", "a");
  write("b.PY", "b");
  write("c.pyc", "c");
  write("py", "d");
  options_.extensions = {"py"};
  const TextFileList list = list_text_files(folder_, options_);
  EXPECT_THAT(names(list.files), ElementsAre("a.py", "b.PY"));
  EXPECT_EQ(list.other_extension.count, 2);
}

TEST_F(TextFolderTest, RefusesWhatHoldsNoText) {
  expect_refused("No such file", [&] { list_text_files(folder_ / "missing", options_); });
  expect_refused("the data must hold text, got 0 binary, 0 empty", [&] { list_text_files(folder_, options_); });
  const auto binary = write("a.bin", std::string(10, '\0'));
  expect_refused("got 1 binary, 0 empty", [&] { list_text_files(folder_, options_); });
  expect_refused("got 1 binary, 0 empty", [&] { list_text_files(binary, options_); });
  const auto empty = write("e.txt", "");
  expect_refused("got 0 binary, 1 empty", [&] { list_text_files(empty, options_); });
  options_.extensions = {".md", ".rst"};
  expect_refused("files that end in .md, .rst", [&] { list_text_files(folder_, options_); });
}

TEST_F(TextFolderTest, NamesAFileItMayNotRead) {
  fs::permissions(write("a.txt", "a"), fs::perms::none);
  const uid_t user = geteuid();
  if (user == 0) {  // root may read everything: be nobody for a moment
    ASSERT_EQ(seteuid(65534), 0);
  }
  expect_refused("a.txt: the file must be readable, got Permission denied",
                 [&] { list_text_files(folder_, options_); });
  ASSERT_EQ(seteuid(user), 0);
}

TEST_F(TextFolderTest, DropsTheMarkAndConvertsUtf16) {
  EXPECT_EQ(read("\xEF\xBB\xBFhi\r\n"), "hi\r\n");
  const std::string little("\xFF\xFEh\0\xE4\0\x3D\xD8\x00\xDE\n\0", 12);
  EXPECT_EQ(read(little), "h\xC3\xA4\xF0\x9F\x98\x80\n");
  const std::string big("\xFE\xFF\0h\0\xE4\xD8\x3D\xDE\x00\0\n", 12);
  EXPECT_EQ(read(big), "h\xC3\xA4\xF0\x9F\x98\x80\n");
}

TEST_F(TextFolderTest, ReplacesOrRefusesMalformedText) {
  int64_t replaced = 0;
  EXPECT_EQ(read("caf\xE9 na\xC3\xAFve \xE2\x82", &replaced), "caf\xEF\xBF\xBD na\xC3\xAFve \xEF\xBF\xBD");
  EXPECT_EQ(replaced, 2);
  EXPECT_EQ(read(std::string("\xFF\xFE\x3D\xD8h\0x", 7), &replaced), "\xEF\xBF\xBDh\xEF\xBF\xBD");
  EXPECT_EQ(replaced, 2);
  options_.encoding_errors = "error";
  expect_refused("a.txt: the text must be UTF-8, got byte 0xE9 at offset 6", [&] {
    read(
        "\xEF\xBB\xBF"
        "caf\xE9 ");
  });
  expect_refused("must be UTF-16, got byte 0x3D at offset 2", [&] { read(std::string("\xFF\xFE\x3D\xD8", 4)); });
}

TEST_F(TextFolderTest, AnythingBecomesValidUtf8) {
  std::string noise;
  for (uint32_t i = 0, state = 1; i < 20000; ++i) {
    state = state * 1664525 + 1013904223;
    const char byte = static_cast<char>(state >> 24);
    noise += byte == '\0' ? 'x' : byte;
  }
  for (const char* mark : {"", "\xFF\xFE", "\xFE\xFF"}) {
    const std::string text = read(mark + noise);
    for (size_t at = 0; at < text.size();) {
      const Utf8Step step = utf8_step(std::string_view(text).substr(at));
      ASSERT_TRUE(step.valid);
      at += step.length;
    }
  }
}

TEST_F(TextFolderTest, CutsASingleFileAtLineEndsWithoutLoss) {
  std::string text;
  for (int i = 0; text.size() < 200000; ++i) text += "line " + std::to_string(i) + "\n";
  const fs::path path = write("one.txt", text);
  for (const fs::path& data : {path, folder_}) {
    const TextFileList list = list_text_files(data, options_);
    EXPECT_TRUE(list.files[0].block);
    EXPECT_GE(list.files.size(), 16u);
    std::string joined;
    for (const TextFile& block : list.files) {
      const std::string part = read_text(block, options_);
      EXPECT_EQ(part.back(), '\n');
      joined += part;
    }
    EXPECT_EQ(joined, text);
    EXPECT_EQ(list.files[3].name, "one.txt#00000003");
    const TextSplit split = split_of(list);
    EXPECT_FALSE(split.train.empty() || split.validation.empty());
  }
}

TEST_F(TextFolderTest, CutsAFileThatOutweighsItsNeighbours) {
  const std::string text(100000, 'x');
  write("m/input.txt", text);
  write("README.md", "about the text");
  write("z.txt", "another");
  TextFileList list = list_text_files(folder_, options_);
  ASSERT_GT(list.files.size(), 10u);
  EXPECT_EQ(list.files[0].name, "README.md");
  EXPECT_EQ(list.files[1].name, "m/input.txt#00000000");
  EXPECT_EQ(list.files.back().name, "z.txt");
  const TextSplit split = split_of(list);
  EXPECT_EQ(split.duplicates.count, 0);
  EXPECT_EQ(split.train.size() + split.validation.size(), list.files.size());
  write("z.txt", text);
  EXPECT_EQ(list_text_files(folder_, options_).files.size(), 3u);
}

// With one letter in front, the cuts that come every so many bytes fall into characters; without, between them.
TEST_F(TextFolderTest, CutsALongLineBetweenCharacters) {
  options_.encoding_errors = "error";
  for (const std::string letter : {"", "x", "xy", "xyz"}) {
    std::string text = letter, wide = "\xFF\xFE", wide_big = "\xFE\xFF", spaced = letter;
    for (const char c : letter) {
      wide += {c, '\0'};
      wide_big += {'\0', c};
    }
    for (int i = 0; i < 20000; ++i) {
      text += "\xF0\x9F\x98\x80";
      wide += "\x3D\xD8" + std::string("\0\xDE", 2);
      wide_big += "\xD8\x3D\xDE" + std::string(1, '\0');
      spaced += "word ";
    }
    for (const std::string& bytes : {text, wide, wide_big, spaced}) {
      const fs::path path = write("long.txt", bytes);
      std::string joined;
      for (const TextFile& block : list_text_files(path, options_).files) joined += read_text(block, options_);
      EXPECT_EQ(joined, bytes == spaced ? spaced : text);
    }
  }
}

TEST_F(TextFolderTest, SplitsByNameAndSeedAlone) {
  for (int i = 0; i < 400; ++i) write("f" + std::to_string(i), "text " + std::to_string(i));
  options_.validation_share = 0.1;
  const TextSplit split = split_of(list_text_files(folder_, options_));
  EXPECT_NEAR(split.validation.size(), 40, 5 * std::sqrt(400 * 0.1 * 0.9));
  EXPECT_EQ(split.train.size() + split.validation.size(), 400u);
  write("f0", "another text");
  write("g", "one more");
  const TextSplit again = split_of(list_text_files(folder_, options_));
  auto before = names(split.validation);
  auto after = names(again.validation);
  std::erase(after, "g");
  EXPECT_EQ(before, after);
  EXPECT_NE(split.inventory.key(), again.inventory.key());
  options_.split_seed = 1;
  EXPECT_NE(names(split_of(list_text_files(folder_, options_)).validation), names(again.validation));
}

TEST_F(TextFolderTest, LeavesNeitherPartEmpty) {
  write("a", "a");
  write("b", "b");
  write("c", "c");
  options_.validation_share = 0;
  TextSplit split = split_of(list_text_files(folder_, options_));
  EXPECT_EQ(split.validation.size(), 1u);
  const auto smallest = names(split.validation);
  for (options_.split_seed = 0; options_.split_seed < 30; ++options_.split_seed) {
    options_.validation_share = 0.9;
    split = split_of(list_text_files(folder_, options_));
    EXPECT_FALSE(split.train.empty() || split.validation.empty());
    if (options_.split_seed == 0) {
      EXPECT_THAT(names(split.validation), testing::Contains(smallest[0]));
    }
  }
}

TEST_F(TextFolderTest, KeepsOneOfEqualFiles) {
  for (const char* name : {"a", "b", "c"}) write(name, "the same");
  expect_refused("got one and 2 copies", [&] { split_of(list_text_files(folder_, options_)); });
  write("d", "different");
  const TextSplit split = split_of(list_text_files(folder_, options_));
  EXPECT_EQ(split.duplicates.count, 2);
  std::vector<std::string> kept = names(split.train);
  for (const TextFile& file : split.validation) kept.push_back(file.name);
  EXPECT_THAT(kept, testing::UnorderedElementsAre("a", "d"));
}

TEST_F(TextFolderTest, RefusesAFileTooShortToSplit) {
  const auto path = write("short.txt", "a few words");
  expect_refused("got one that is shorter", [&] { split_of(list_text_files(path, options_)); });
}

TEST_F(TextFolderTest, NoticesAFileThatChangedInBetween) {
  write("a", std::string(5000, 'a'));
  write("b", "b");
  const TextFileList list = list_text_files(folder_, options_);
  const TextSplit split = split_of(list);
  const TextFile& file = split.train[0].name == "a" ? split.train[0] : split.validation[0];
  EXPECT_EQ(read_text(file, options_).size(), 5000u);
  write("a", std::string(4999, 'a') + "b");
  expect_refused("a: the file must stay as it is while it is read, got other bytes than before",
                 [&] { read_text(file, options_); });
  write("a", "short");
  expect_refused("the file must stay as it is while it is read, got a shorter one", [&] { read_text(file, options_); });
  expect_refused("the file must stay as it is while it is read, got a shorter one", [&] { split_of(list); });
  write("a", std::string(6000, 'a'));
  EXPECT_EQ(read_text(file, options_).size(), 5000u) << "what was appended since does not count";
}

TEST_F(TextFolderTest, TheInventoryHasWholeFilesHoweverTheyAreCut) {
  const std::string text(200000, 'x');
  write("large.txt", text);
  write("small.txt", "small");
  const FileInventory cut = split_of(list_text_files(folder_, options_)).inventory;
  ASSERT_EQ(cut.files.size(), 2u);
  EXPECT_EQ(cut.files[0].name, "large.txt");
  EXPECT_EQ(cut.files[0].bytes, 200000u);
  write("other.txt", std::string(200000, 'y'));
  const FileInventory whole = split_of(list_text_files(folder_, options_)).inventory;
  EXPECT_EQ(changes_between(cut, whole), "1 file added (other.txt)");
}

}  // namespace
}  // namespace loci
