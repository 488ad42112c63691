#include "loci/base/config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <fstream>
#include <functional>

#include "loci/base/config_keys.h"
#include "loci/base/nearest_word.h"
#include "tests/temporary_folder.h"

namespace loci {
namespace {

enum class Norm { none, layer };

struct Memory {
  int64_t rows = 16384;
  Norm norm = Norm::none;
  void fields(ConfigFields& f) {
    f.field("rows", rows, "rows of a table", {.minimum = 1});
    f.choice("norm", norm, "norm of the queries", {{"none", Norm::none}, {"layer", Norm::layer}});
  }
};

struct Model {
  Memory memory;
  bool has_memory = false;
  int64_t layers = 2;
  std::vector<int64_t> memory_layers = {1};
  void fields(ConfigFields& f) {
    f.optional_section("memory", has_memory, memory);
    f.field("layers", layers, "layers of the model", {.minimum = 1, .maximum = 64});
    f.field("memory_layers", memory_layers, "layers with a memory", {.minimum = 0});
  }
};

struct Recipe {
  double learning_rate = 1e-3;
  bool fused = true;
  int64_t width = 8;
  std::string name = "none";
  std::vector<std::string> words;
  Model model;
  void fields(ConfigFields& f) {
    f.section("model", model);
    f.field("learning_rate", learning_rate, "peak of the schedule", {.minimum = 0});
    f.field("fused", fused, "one kernel");
    f.when(fused, "fused is true", [&] { f.field("width", width, "lanes of the kernel", {.minimum = 1}); });
    f.field("name", name, "who it is");
    f.field("words", words, "what it says");
  }
};

Recipe read(const Config& config, const std::vector<std::string>& elsewhere = {}) {
  Recipe recipe;
  config.read(recipe, elsewhere);
  return recipe;
}

void expect_refused(const std::string& message, const std::function<void()>& action) {
  try {
    action();
    FAIL() << "no error: " << message;
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::usage);
    EXPECT_STREQ(error.what(), message.c_str());
  }
}
void expect_text_refused(const std::string& text, const std::string& message) {
  expect_refused(message, [&] { read(Config::from_text(text, "r.toml")); });
}

TEST(ConfigTest, KeepsDefaultsAndFillsWhatIsNamed) {
  const Recipe recipe = read(Config::from_text("fused = false\n[model]\nlayers = 4\n[model.memory]\nnorm = 'layer'\n"));
  EXPECT_FALSE(recipe.fused);
  EXPECT_EQ(recipe.learning_rate, 1e-3);
  EXPECT_EQ(recipe.model.layers, 4);
  EXPECT_TRUE(recipe.model.has_memory);
  EXPECT_EQ(recipe.model.memory.norm, Norm::layer);
  EXPECT_EQ(recipe.model.memory.rows, 16384);
  EXPECT_FALSE(read(Config()).model.has_memory);
}

TEST(ConfigTest, TakesIntegersForReals) {
  EXPECT_EQ(read(Config::from_text("learning_rate = 2")).learning_rate, 2.0);
}

TEST(ConfigTest, NamesFileLineKeyRangeAndValue) {
  expect_text_refused("[model]\nlayers = \"two\"\n",
                      "r.toml:2: model.layers must be an integer from 1 to 64, got \"two\"");
  expect_text_refused("[model]\nlayers = 65", "r.toml:2: model.layers must be an integer from 1 to 64, got 65");
  expect_text_refused("[model]\n\nmemory.rows = 0",
                      "r.toml:3: model.memory.rows must be an integer of at least 1, got 0");
  expect_text_refused("learning_rate = -1", "r.toml:1: learning_rate must be a number of at least 0, got -1");
  expect_text_refused("learning_rate = nan", "r.toml:1: learning_rate must be a finite number of at least 0, got nan");
  expect_text_refused("learning_rate = inf", "r.toml:1: learning_rate must be a finite number of at least 0, got inf");
  expect_text_refused("learning_rate = true", "r.toml:1: learning_rate must be a number of at least 0, got true");
  expect_text_refused("fused = 1", "r.toml:1: fused must be true or false, got 1");
  expect_text_refused("name = 1", "r.toml:1: name must be a string, got 1");
  expect_text_refused("words = 'a'", "r.toml:1: words must be a list of strings, got \"a\"");
  expect_text_refused("words = ['a', 3]", "r.toml:1: words must be a list of strings, got [ 'a', 3 ]");
  expect_text_refused("model.memory_layers = [1, -1]",
                      "r.toml:1: model.memory_layers must be a list of integers of at least 0, got [ 1, -1 ]");
  expect_text_refused("model.memory.norm = 'batch'",
                      "r.toml:1: model.memory.norm must be one of \"none\", \"layer\", got \"batch\"");
  expect_text_refused("model = 3", "r.toml:1: model must be a table, got 3");
  expect_text_refused("fused = {}", "r.toml:1: fused must be true or false, got a table");
  expect_text_refused("fused = '" + std::string(200, 'x') + "'",
                      "r.toml:1: fused must be true or false, got \"" + std::string(56, 'x') + "...");
}

TEST(ConfigTest, TakesWholeNumbersThatAreWrittenAsReals) {
  const Recipe recipe = read(Config::from_text("model.layers = 4.0\nmodel.memory_layers = [1e1, 2]\n"));
  EXPECT_EQ(recipe.model.layers, 4);
  EXPECT_THAT(recipe.model.memory_layers, testing::ElementsAre(10, 2));
  Config config;
  config.set("model.memory.rows=4e6");
  EXPECT_EQ(read(config).model.memory.rows, 4'000'000);
  config.set("model.memory.rows=9007199254740992.0");
  EXPECT_EQ(read(config).model.memory.rows, int64_t{1} << 53);
  expect_text_refused("model.layers = 4.5", "r.toml:1: model.layers must be an integer from 1 to 64, got 4.5");
  expect_text_refused("model.layers = inf", "r.toml:1: model.layers must be an integer from 1 to 64, got inf");
  expect_text_refused("model.layers = nan", "r.toml:1: model.layers must be an integer from 1 to 64, got nan");
  expect_text_refused("model.memory.rows = 1e18",
                      "r.toml:1: model.memory.rows must be an integer of at least 1, got 1e+18");
}

TEST(ConfigTest, RefusesKeysWithoutAnEffect) {
  EXPECT_EQ(read(Config::from_text("fused = true\nwidth = 3\n")).width, 3);
  EXPECT_EQ(read(Config::from_text("width = 3\n")).width, 3);
  expect_text_refused("fused = false\nwidth = 3\n",
                      "r.toml:2: width must be left out, for it has an effect only where fused is true, got 3");
  Recipe recipe;
  EXPECT_THAT(Config::from_text("fused = false\nwidth = 3\n").ineffective(recipe), testing::ElementsAre("width"));
  EXPECT_THAT(Config::from_text("fused = true\nwidth = 3\n").ineffective(recipe), testing::IsEmpty());
  recipe = Recipe();
  recipe.fused = false;
  EXPECT_THAT(Config::write(recipe), testing::Not(testing::HasSubstr("width")));
  EXPECT_FALSE(read(Config::from_text(Config::write(recipe))).fused);
}

TEST(ConfigTest, FindsAndErasesDottedKeys) {
  Config config = Config::from_text("fused = true\n[model]\nlayers = 3\n");
  EXPECT_TRUE(config.contains("model.layers"));
  EXPECT_FALSE(config.contains("model.rows"));
  config.erase("model.layers");
  config.erase("model.memory.rows");
  config.erase("fused");
  EXPECT_FALSE(config.contains("model.layers"));
  EXPECT_FALSE(config.contains("fused"));
  EXPECT_TRUE(config.contains("model"));
}

TEST(ConfigKeys, ListsEveryFieldWithTypeDefaultRangeAndHelp) {
  const std::vector<ConfigKey> keys = keys_of(Recipe{});
  ASSERT_EQ(keys.size(), 9u);
  EXPECT_EQ(keys[0].key(), "model.memory.rows");
  EXPECT_EQ(keys[0].type, "an integer of at least 1");
  EXPECT_EQ(keys[0].value, "16384");
  EXPECT_EQ(keys[0].help, "rows of a table");
  EXPECT_TRUE(keys[0].optional);
  EXPECT_EQ(keys[1].type, "one of \"none\", \"layer\"");
  EXPECT_FALSE(keys[2].optional);
  EXPECT_EQ(keys[6].key(), "width");
  EXPECT_EQ(keys[6].condition, "fused is true");
}

TEST(ConfigKeys, ItsTextReadsBackAsTheDefaults) {
  const std::string text = keys_text(keys_of(Recipe{}));
  EXPECT_THAT(text, testing::StartsWith("# peak of the schedule\nlearning_rate = 0.001               "));
  EXPECT_THAT(text, testing::HasSubstr("  # a number of at least 0\n"));
  EXPECT_THAT(text, testing::HasSubstr("\n# lanes of the kernel (only where fused is true)\nwidth = 8 "));
  EXPECT_THAT(text, testing::HasSubstr("\n# may be absent: [model.memory]\n# rows of a table\n# rows = 16384 "));
  EXPECT_EQ(Config::write(read(Config::from_text(text))), Config::write(Recipe{}));
  Recipe without;
  without.fused = false;
  EXPECT_THAT(keys_text(keys_of(without)), testing::HasSubstr("\n# width = 8 "));
}

TEST(ConfigKeys, ASectionWithoutAnEffectIsCommentedOut) {
  struct Block {
    int64_t inner = 4;
    void fields(ConfigFields& f) { f.field("inner", inner, "channels of the block"); }
  };
  struct Model {
    bool has_block = false;
    Block block;
    void fields(ConfigFields& f) {
      f.field("has_block", has_block, "whether there is one");
      f.when(has_block, "has_block is true", [&] { f.section("block", block); });
    }
  };
  Model model;
  EXPECT_THAT(
      keys_text(keys_of(model)),
      testing::HasSubstr("\n\n# [block]\n# channels of the block (only where has_block is true)\n# inner = 4 "));
  Config::from_text(keys_text(keys_of(model)), "r.toml").read(model);
  model.has_block = true;
  EXPECT_THAT(keys_text(keys_of(model)), testing::HasSubstr("\n\n[block]\n"));
  model.block.inner = 7;
  Model again;
  Config::from_text(keys_text(keys_of(model)), "r.toml").read(again);
  EXPECT_EQ(again.block.inner, 7);
}

TEST(ConfigTest, NamesTheNearestKnownKey) {
  expect_text_refused("\n[model]\nlayer = 3\n", "r.toml:3: unknown key model.layer, did you mean layers?");
  expect_text_refused("nmae = 'x'", "r.toml:1: unknown key nmae, did you mean name?");
  expect_text_refused("[model.memory]\nunlike = 3", "r.toml:2: unknown key model.memory.unlike, known are rows, norm");
  expect_text_refused("[modle]\n", "r.toml:1: unknown key modle, did you mean model?");
}

TEST(ConfigTest, LeavesTopLevelKeysOfOtherReaders) {
  const Config config = Config::from_text("seeds = [1]\n[arms.base]\n", "r.toml");
  EXPECT_EQ(read(config, {"seeds", "arms"}).model.layers, 2);
  expect_refused("r.toml:1: unknown key seeds, did you mean words?", [&] { read(config, {"arms"}); });
  Recipe part;
  Config::from_text("seeds = [1]\nfused = false\n[arms.base]\n").read_part(part);
  EXPECT_FALSE(part.fused);
  expect_refused("r.toml:2: unknown key model.layer, did you mean layers?",
                 [&] { Config::from_text("[model]\nlayer = 3\n", "r.toml").read_part(part); });
}

TEST(ConfigTest, RefusesBrokenTomlAndMissingFiles) {
  try {
    Config::from_text("a = 1\nb = \n", "r.toml");
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::usage);
    EXPECT_THAT(error.what(), testing::StartsWith("r.toml:2: the file must be TOML, got "));
  }
  expect_error(ExitCode::input, "no/such.toml: the file must be readable, got No such file or directory",
               [] { Config::from_file("no/such.toml"); });
  EXPECT_THROW(Config::from_text(std::string("a = \"\xFF\"", 8)), Error);
  EXPECT_THROW(Config::from_text(std::string("a\0 = 1", 6)), Error);
  EXPECT_THROW(Config::from_text("a = " + std::string(100000, '[')), Error);
}

TEST(ConfigTest, ReadsAFileUnderItsName) {
  const std::string path = testing::TempDir() + "loci_config_" + std::to_string(getpid()) + ".toml";
  std::ofstream(path) << "fused = 3";
  expect_refused(path + ":1: fused must be true or false, got 3", [&] { read(Config::from_file(path)); });
  std::filesystem::remove(path);
}

TEST(ConfigSet, TakesTomlValuesAndBareWords) {
  Config config = Config::from_text("[model]\nlayers = 1\n");
  for (const char* assignment : {"learning_rate=1e-2", "model.layers = 3", "fused=false", "name=bare word=x",
                                 "words=[\"a\", 'b']", "model.memory.norm=layer"}) {
    config.set(assignment);
  }
  const Recipe recipe = read(config);
  EXPECT_EQ(recipe.learning_rate, 1e-2);
  EXPECT_EQ(recipe.model.layers, 3);
  EXPECT_FALSE(recipe.fused);
  EXPECT_EQ(recipe.name, "bare word=x");
  EXPECT_THAT(recipe.words, testing::ElementsAre("a", "b"));
  EXPECT_TRUE(recipe.model.has_memory);
  EXPECT_EQ(recipe.model.memory.norm, Norm::layer);
  config.set("name=");
  EXPECT_EQ(read(config).name, "");
  config.set("name=1\nfused=true");
  EXPECT_EQ(read(config).name, "1\nfused=true");
}

TEST(ConfigSet, RefusesWhatIsNoAssignment) {
  Config config = Config::from_text("fused = true\n");
  expect_refused("--set: the argument must be KEY=VALUE, got \"fused\"", [&] { config.set("fused"); });
  expect_refused("--set: the key must be names joined by dots, got \"\"", [&] { config.set("=3"); });
  expect_refused("--set: the key must be names joined by dots, got \"a..b\"", [&] { config.set("a..b=3"); });
  expect_refused("--set: the value of words must be TOML or a bare word, got [1, 2",
                 [&] { config.set("words=[1, 2"); });
  expect_refused("--set: fused must be a table to hold fused.x, got true", [&] { config.set("fused.x=3"); });
}

TEST(ConfigSet, BlamesTheCommandLineForItsValues) {
  Config config = Config::from_text("[model]\nlayers = 1\n", "r.toml");
  config.set("model.layers=two");
  expect_refused("--set: model.layers must be an integer from 1 to 64, got \"two\"", [&] { read(config); });
  config = Config::from_text("", "r.toml");
  config.set("model.layer=2");
  expect_refused("--set: unknown key model.layer, did you mean layers?", [&] { read(config); });
}

TEST(ConfigSet, KeepsLinesInCopiesAndInOverridesOfTheSameFile) {
  Config config = Config::from_text("[model]\nlayers = 0\n\n[arms.deep]\nmodel = {layers = 'x'}\n", "r.toml");
  Config copy = config;
  expect_refused("r.toml:2: model.layers must be an integer from 1 to 64, got 0", [&] { read(copy, {"arms"}); });
  copy.set("model.layers", *config.table().at_path("arms.deep.model.layers").node());
  expect_refused("r.toml:5: model.layers must be an integer from 1 to 64, got \"x\"", [&] { read(copy, {"arms"}); });
}

TEST(ConfigWrite, GivesTheResolvedConfigurationInOrder) {
  Recipe recipe;
  recipe.words = {"a\"b", "c\nd"};
  recipe.learning_rate = 3;
  EXPECT_EQ(Config::write(recipe),
            "learning_rate = 3.0\nfused = true\nwidth = 8\nname = \"none\"\nwords = [\"a\\\"b\", \"c\\nd\"]\n\n"
            "[model]\nlayers = 2\nmemory_layers = [1]\n");
  recipe.model.has_memory = true;
  EXPECT_THAT(Config::write(recipe), testing::EndsWith("\n[model.memory]\nrows = 16384\nnorm = \"none\"\n"));
}

TEST(ConfigWrite, ReadsBackTheSameValues) {
  for (double value : {0.1, 1e-5, 1. / 3, 1e300, 5e-324, 12345678.}) {
    Recipe recipe;
    recipe.learning_rate = value;
    recipe.name = "tab\t, quotes '\"', back\\slash, \xC3\xA4, \x01, \x7F";
    recipe.model.has_memory = true;
    recipe.model.memory.norm = Norm::layer;
    const std::string text = Config::write(recipe);
    const Recipe again = read(Config::from_text(text));
    EXPECT_EQ(again.learning_rate, value);
    EXPECT_EQ(again.name, recipe.name);
    EXPECT_EQ(again.model.memory.norm, Norm::layer);
    EXPECT_EQ(Config::write(again), text);
  }
}

TEST(NearestWord, IsEmptyWhenNoneIsNear) {
  EXPECT_EQ(nearest_word("wamrup", {"seed", "warmup"}), "warmup");
  EXPECT_EQ(nearest_word("xyz", {"seed", "warmup"}), "");
  EXPECT_EQ(nearest_word("", {"seed"}), "");
  EXPECT_EQ(nearest_word("seed", {}), "");
}

}  // namespace
}  // namespace loci
