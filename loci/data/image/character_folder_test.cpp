#include "loci/data/image/character_folder.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "loci/base/check.h"
#include "loci/data/image/episodes.h"
#include "tests/image_files.h"
#include "tests/temporary_folder.h"

namespace loci {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

class CharacterFolderTest : public testing::Test {
 protected:
  // So many drawings of so many characters, each drawing of one grey.
  void put_alphabet(const std::string& alphabet, int characters, int drawings) {
    for (int c = 0; c < characters; ++c) {
      for (int d = 0; d < drawings; ++d) {
        const PngForm form = {.width = 4, .height = 4, .color_type = PNG_COLOR_TYPE_GRAY};
        const std::string pixels(16, static_cast<char>(10 * c + d));
        put_file(folder_ / fmt::format("{}/character{:02}/{:02}.png", alphabet, c + 1, d), png_bytes(form, pixels));
      }
    }
  }
  void put_two_sets() {
    put_alphabet("images_background/Greek", 2, 3);
    put_alphabet("images_background/Latin", 1, 4);
    put_alphabet("images_evaluation/Greek", 2, 3);
    put_alphabet("images_evaluation/Runes", 3, 3);
  }
  CharacterSets load() {
    ProgressLine quiet(true);
    return load_characters(folder_.path(), options_, quiet);
  }
  void expect_refused(ExitCode code, const std::string& part) {
    expect_error(code, part, [&] { load(); });
  }
  static std::vector<std::string> names(const CharacterDrawings& set) {
    std::vector<std::string> result;
    for (const Character& character : set.characters) result.push_back(character.name);
    return result;
  }

  TemporaryFolder folder_;
  CharacterFolderOptions options_;
};

TEST_F(CharacterFolderTest, AnAlphabetThatIsTrainedOnIsNotTested) {
  put_two_sets();
  const CharacterSets sets = load();
  EXPECT_THAT(names(sets.train),
              ElementsAre("images_background/Greek/character01", "images_background/Greek/character02",
                          "images_background/Latin/character01"));
  EXPECT_THAT(names(sets.test),
              ElementsAre("images_evaluation/Runes/character01", "images_evaluation/Runes/character02",
                          "images_evaluation/Runes/character03"));
  EXPECT_THAT(sets.notices, ElementsAre("left out of the test: Greek (trained on)"));
  EXPECT_EQ(sets.train.images.shape(), (ImageShape{28, 28, 1}));
  EXPECT_EQ(sets.train.images.size(), 10);
  EXPECT_EQ(sets.train.characters[2].first, 6);
  EXPECT_EQ(sets.train.characters[2].drawings, 4);
  EXPECT_EQ(sets.inventory.files.size(), 19U);
  std::vector<uint8_t> pixels(28 * 28);
  sets.train.images.read(4, pixels.data());
  EXPECT_EQ(pixels[100], 11);  // the second drawing of the second character
}

TEST_F(CharacterFolderTest, HeldOutAlphabetsAreTestedAndNotTrainedOn) {
  put_two_sets();
  options_.held_out = {"Greek"};
  CharacterSets sets = load();
  EXPECT_THAT(names(sets.train), ElementsAre("images_background/Latin/character01"));
  EXPECT_EQ(sets.test.characters.size(), 5U);
  EXPECT_THAT(sets.notices, IsEmpty());
  options_.test_set = "images_background";
  sets = load();
  EXPECT_THAT(names(sets.test),
              ElementsAre("images_background/Greek/character01", "images_background/Greek/character02"));
  EXPECT_THAT(sets.notices, IsEmpty());
  EXPECT_EQ(sets.inventory.files.size(), 10U);
  options_.held_out = {"Greek", "Greek"};
  expect_refused(ExitCode::usage,
                 "data.held_out: it must name alphabets of images_background, each once (Greek, Latin), "
                 "got Greek");
  options_.held_out = {"Grek"};
  expect_refused(ExitCode::usage, "got Grek");
  options_.held_out = {"Greek", "Latin"};
  expect_refused(ExitCode::usage, "it must leave an alphabet to train on, got all of Greek, Latin");
}

TEST_F(CharacterFolderTest, RefusesFoldersOfAnotherForm) {
  options_.test_set = "images_background";
  expect_refused(ExitCode::input, "the folder must hold the folder data.train_set = \"images_background\", got ");
  put_file(folder_ / "images_background.zip", "");
  expect_refused(ExitCode::input, "got images_background.zip");
  put_file(folder_ / "images_background/Greek/1.png", "");
  expect_refused(ExitCode::input, "the folder must hold ALPHABET/CHARACTER/DRAWING");
  put_alphabet("images_background/Greek", 1, 2);
  expect_refused(ExitCode::input, "the test must have an alphabet that is not trained on");
  put_alphabet("images_background/Latin", 1, 2);
  options_.held_out = {"Latin"};
  EXPECT_THAT(load().notices,
              ElementsAre("left out, files that are no drawing of a character: 1 (images_background/Greek/1.png)"));
  put_file(folder_ / "images_background/Greek/character01/9.png", "no image");
  expect_refused(ExitCode::input, "9.png");
}

TEST_F(CharacterFolderTest, EpisodesAreTheSameForASeedAndNeverShareADrawing) {
  put_two_sets();
  const CharacterSets sets = load();
  const EpisodeOptions options{.ways = 2, .shots = 2, .queries = 1};
  const EpisodeSampler sampler("test", sets.test, options, false, 5), turned("test", sets.test, options, true, 5),
      other("test", sets.test, options, false, 6);
  std::set<int64_t> characters, turns;
  bool differs = false;
  for (int64_t number = 0; number < 50; ++number) {
    const Episode episode = sampler.at(number), again = sampler.at(number);
    EXPECT_EQ(episode.support, again.support);
    EXPECT_EQ(episode.queries, again.queries);
    EXPECT_THAT(episode.turns, ElementsAre(0, 0));
    ASSERT_EQ(episode.support.size(), 4U);
    ASSERT_EQ(episode.queries.size(), 2U);
    std::set<int64_t> all(episode.support.begin(), episode.support.end());
    all.insert(episode.queries.begin(), episode.queries.end());
    EXPECT_EQ(all.size(), 6U);
    for (size_t way = 0; way < 2; ++way) {
      characters.insert(episode.queries[way] / 3);
      EXPECT_EQ(episode.support[2 * way] / 3, episode.queries[way] / 3);
      EXPECT_EQ(episode.support[2 * way + 1] / 3, episode.queries[way] / 3);
    }
    EXPECT_NE(episode.queries[0] / 3, episode.queries[1] / 3);
    differs |= episode.support != other.at(number).support;
    for (const int64_t turn : turned.at(number).turns) turns.insert(turn);
  }
  EXPECT_TRUE(differs);
  EXPECT_EQ(characters.size(), 3U);
  EXPECT_EQ(turns, (std::set<int64_t>{0, 1, 2, 3}));
}

TEST_F(CharacterFolderTest, EpisodesRefuseTooFewCharactersAndDrawings) {
  put_two_sets();
  const CharacterSets sets = load();
  const auto make = [&](const CharacterDrawings& data, const EpisodeOptions& options) {
    EpisodeSampler("episodes", data, options, false, 0);
  };
  expect_error(ExitCode::input, "episodes: there must be 4 characters, as many as ways, got 3",
               [&] { make(sets.test, {.ways = 4, .shots = 1, .queries = 1}); });
  expect_error(ExitCode::input,
               "episodes: images_background/Greek/character01 must have 4 drawings for 3 shots and 1 queries, got 3",
               [&] { make(sets.train, {.ways = 2, .shots = 3, .queries = 1}); });
}

}  // namespace
}  // namespace loci
