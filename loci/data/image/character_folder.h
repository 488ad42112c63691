// Drawings of characters as Omniglot has them: SET/ALPHABET/CHARACTER/DRAWING, where a class is a character. Some
// alphabets are trained on, and the characters of others are tested. docs/data.md has the rules for users.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "loci/base/config_fields.h"
#include "loci/base/progress.h"
#include "loci/data/file_inventory.h"
#include "loci/data/image/image_set.h"

namespace loci {

struct CharacterFolderOptions {
  CharacterFolderOptions();
  ImageOptions image;  // grey, 28 x 28
  std::string train_set = "images_background";
  std::string test_set = "images_evaluation";
  std::vector<std::string> held_out = {};  // alphabets of train_set that are not trained on
  void fields(ConfigFields& f);
};

struct Character {
  std::string name;      // "images_background/Greek/character03"
  int64_t first = 0;     // its first drawing; they stand together
  int64_t drawings = 0;  //
};

struct CharacterDrawings {
  ImageSet images;
  std::vector<Character> characters;  // by name
};

struct CharacterSets {
  CharacterDrawings train, test;  // without an alphabet in common
  FileInventory inventory;
  std::vector<std::string> notices;  // what was left out
};

// Those that decide what is read, as TOML.
std::string character_settings(CharacterFolderOptions options);

// The training set is train_set without the alphabets held_out. The test set is what alphabets test_set has in
// addition: one that stands in both is trained on and left out of the test, with a notice. Throws Error (input) for a
// folder of another form and for the first file that is not an image, and (usage) for a held_out that it lacks.
CharacterSets load_characters(const std::filesystem::path& folder, const CharacterFolderOptions& options,
                              ProgressLine& progress);

}  // namespace loci
