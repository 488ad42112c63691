#include "loci/data/file_inventory.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace loci {
namespace {

TEST(FileInventoryTest, LoadsWhatItSavedWhateverTheNames) {
  const FileInventory inventory = {
      .settings = "split_seed = 0\n",
      .files = {{"a.txt", 3, "s"}, {"line\nend.txt", 5000000000, "t"}, {"\xFF.txt", 0, "u"}, {"1 2", 7, "v"}}};
  const auto loaded = FileInventory::load(inventory.save());
  ASSERT_TRUE(loaded.has_value());
  EXPECT_EQ(loaded->settings, inventory.settings);
  EXPECT_EQ(loaded->files, inventory.files);
  EXPECT_EQ(loaded->key(), inventory.key());
  EXPECT_THAT(inventory.key(), testing::MatchesRegex("4 files, 5000000010 bytes, [0-9a-f]{32}"));
}

TEST(FileInventoryTest, RefusesWhatIsOfAnotherForm) {
  const std::string saved = FileInventory{.settings = "", .files = {{"a", 1, "s"}}}.save();
  for (const std::string& bad : {std::string(), std::string("x"), saved.substr(0, saved.size() - 1), saved + "b",
                                 saved + std::string("b\0x\0s\0", 6), "x" + saved}) {
    EXPECT_FALSE(FileInventory::load(bad).has_value()) << bad.size();
  }
}

TEST(FileInventoryTest, NamesWhatChanged) {
  const FileInventory before = {.settings = "a", .files = {{"1", 1, "s"}, {"2", 2, "t"}, {"3", 3, "u"}}};
  EXPECT_EQ(changes_between(before, before), "");
  FileInventory now = before;
  now.files = {{"1", 1, "s"}, {"2", 2, "other"}, {"4", 4, "v"}, {"5", 5, "w"}, {"6", 6, "x"}, {"7", 7, "y"}};
  EXPECT_EQ(changes_between(before, now), "1 file changed (2); 4 files added (4, 5, 6 ...); 1 file missing (3)");
  now = before;
  now.settings = "b";
  EXPECT_EQ(changes_between(before, now), "other settings of [data]");
  EXPECT_NE(before.key(), now.key());
}

}  // namespace
}  // namespace loci
