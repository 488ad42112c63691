#include "loci/data/text/entity_views.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "tests/temporary_folder.h"

namespace loci::entity_views_test {
namespace {

using testing::ElementsAre;
using testing::UnorderedElementsAre;

// Of each kind so many entities k0, k1 ..; `more` lines follow the triples.
class EntityViewsTest : public testing::Test {
 protected:
  EntityViewsTest() {
    options_.least = 5;
    options_.triples = {"train.tsv"};
    for (const char* kind : {"dog", "bird", "few"}) {
      entities_ += fmt::format("{0}\t{0}, a kind of animal\n", kind);
      for (int i = 0; i < (kind == std::string("few") ? 4 : 6); ++i) {
        entities_ += fmt::format("{0}{1}\tthe {0} {1}, one of \"them\", number {1}\n", kind, i);
        triples_ += fmt::format("{0}{1}\t_hypernym\t{0}\n", kind, i);
      }
    }
    triples_ += "dog0\t_also_see\tbird1\ndog0\t_has_part\tbird2\nbird1\t_also_see\tdog0\ndog1\t_also_see\tdog1\n";
  }
  EntityViews read(const std::string& entities = "", const std::string& triples = "") {
    std::ofstream(folder_ / "entity2text.txt") << entities_ << entities;
    std::ofstream(folder_ / "train.tsv") << triples_ << triples;
    return read_entity_views(folder_.path(), options_);
  }
  static EntityViews::Entity find(const EntityViews& views, const std::string& id) {
    for (const auto& entity : views.entities) {
      if (entity.id == id) return entity;
    }
    return {"none", -1, {}};
  }

  TemporaryFolder folder_;
  EntityViewsOptions options_;
  std::string entities_, triples_;
};

TEST_F(EntityViewsTest, GroupsAreTailsWithEnoughEntities) {
  const EntityViews views = read("lone\tlone, without a hypernym\n\n", "\n");
  EXPECT_THAT(views.groups, ElementsAre("dog", "bird"));
  EXPECT_EQ(views.entities.size(), 12U);
  EXPECT_EQ(find(views, "few0").id, "none");
  EXPECT_EQ(find(views, "lone").id, "none");
  EXPECT_EQ(find(views, "dog3").group, 0);
  EXPECT_EQ(find(views, "bird3").group, 1);
  EXPECT_GT(views.warm, 0);
  EXPECT_LT(views.warm, 12);
}

TEST_F(EntityViewsTest, ViewsAreNameGlossAndNeighboursWithoutTheRelationItself) {
  const EntityViews views = read("bare\tbare\n", "bare\t_hypernym\tdog\n");
  EXPECT_THAT(find(views, "dog0").views,
              ElementsAre("the dog 0", "one of \"them\", number 0", "the bird 1; the bird 2; "));
  EXPECT_THAT(find(views, "bird1").views[2], "the dog 0; ");
  EXPECT_EQ(find(views, "dog1").views[2], "");  // tied to itself alone
  EXPECT_THAT(find(views, "bare").views, ElementsAre("bare", "", ""));
}

TEST_F(EntityViewsTest, AnEntityOfSeveralTailsIsLeftOut) {
  const EntityViews views = read("", "dog2\t_instance_hypernym\tbird\n");
  EXPECT_EQ(find(views, "dog2").id, "none");
  EXPECT_EQ(views.entities.size(), 11U);
}

TEST_F(EntityViewsTest, AnEntityKeepsItsSideWhenOthersCome) {
  options_.cold_share = 0.5;
  const EntityViews before = read();
  const EntityViews after = read("dog9\tnine, new\n", "dog9\t_hypernym\tdog\n");
  const auto cold = [](const EntityViews& views) {
    std::vector<std::string> ids;
    for (size_t i = static_cast<size_t>(views.warm); i < views.entities.size(); ++i) {
      if (views.entities[i].id != "dog9") ids.push_back(views.entities[i].id);
    }
    return ids;
  };
  EXPECT_EQ(cold(before), cold(after));
  EXPECT_GT(cold(before).size(), 2U);
  options_.split_seed = 1;
  EXPECT_NE(cold(read()), cold(before));
  EXPECT_NE(read().inventory.key(), "");
}

TEST_F(EntityViewsTest, MalformedFilesAreNamedWithTheirLine) {
  expect_error(ExitCode::input, "entity2text.txt:20: a line must have 2 columns between tabs, got 1",
               [&] { read("x\n"); });
  expect_error(ExitCode::input, "an entity must have one line, got dog", [&] { read("dog\tagain\n"); });
  expect_error(ExitCode::input, "train.tsv:21: a line must have 3 columns between tabs, got 2",
               [&] { read("", "a\tb\n"); });
  expect_error(ExitCode::input, "entities must be those of entity2text.txt, got cat",
               [&] { read("", "dog\t_hypernym\tcat\n"); });
  options_.least = 7;
  expect_error(ExitCode::input, "two groups of at least 7 entities", [&] { read(); });
  options_.entities = "nothing";
  expect_error(ExitCode::input, "nothing", [&] { read(); });
  options_.relations = {};
  expect_error(ExitCode::usage, "data.relations must be given", [&] { read(); });
}

TEST(WordsTest, AreLettersDigitsAndOtherBytesInLowerCase) {
  EXPECT_THAT(words_of("The cat's 2nd \xC3\xA9tude, (ok)"),
              ElementsAre("the", "cat", "s", "2nd", "\xC3\xA9tude", "ok"));
  EXPECT_TRUE(words_of(" .;\n").empty());
}

TEST(WordsTest, HashedOnceEachUpToTheMost) {
  const auto words = hashed_words("a cat and a dog", false, 1 << 20, 10);
  EXPECT_EQ(words.size(), 4U);
  EXPECT_EQ(hashed_words("DOG; a, cat and", false, 1 << 20, 10).size(), 4U);
  EXPECT_THAT(hashed_words("dog", false, 1 << 20, 10), ElementsAre(words[3]));
  EXPECT_EQ(hashed_words("dog", true, 1 << 20, 10).size(), 4U);  // the word, <do, dog, og>
  EXPECT_EQ(hashed_words("dog", true, 1 << 20, 2).size(), 2U);
  for (const int64_t row : hashed_words("many words in a table of three rows", true, 3, 100)) {
    EXPECT_TRUE(row == 1 || row == 2);
  }
  EXPECT_TRUE(hashed_words("", true, 8, 10).empty());
}

}  // namespace
}  // namespace loci::entity_views_test
