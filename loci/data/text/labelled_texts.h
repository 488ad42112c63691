// Texts, or pairs of texts, with a label: a folder with files for training, validation and test. docs/data.md has the
// rules for users.
//
//   .jsonl   an object a line; text, pair and label are its keys
//   others   columns between tabs, without quotation marks. Columns that are numbers (from 1) are of a file without a
//            header, and names are those of the header
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "loci/base/config_fields.h"
#include "loci/data/file_inventory.h"
#include "loci/data/text/tokenizer.h"

namespace loci {

// [data]
struct LabelledTextOptions {
  std::string train = "train.tsv";
  std::string validation = "validation.tsv";
  std::string test;  // or none
  std::string text = "text";
  std::string pair;  // or none
  std::string label = "label";
  void fields(ConfigFields& f);
  // Throws Error (usage) for names that do not fit each other.
  void check() const;
};

struct LabelledText {
  std::string text, pair;
  int64_t label = -1;
};

struct LabelledTexts {
  std::vector<std::string> classes;  // labels of the training part, sorted
  std::vector<LabelledText> train, validation, test;
  FileInventory inventory;
};

// Throws Error (input) with file and line for what is malformed: another number of columns than the first line's, an
// empty text, a label that training does not have.
LabelledTexts read_labelled_texts(const std::filesystem::path& folder, const LabelledTextOptions& options);
// A file without regard to labels, which it need not have.
std::vector<LabelledText> read_unlabelled_texts(const std::filesystem::path& file, const LabelledTextOptions& options);

// Tokens that a text, or a pair, needs at least: the ends and one token of each.
constexpr int64_t least_text_tokens(bool pair) {
  return pair ? 5 : 3;
}
// E text E, or E text E pair E, with E the token that ends a text; at most `context` tokens, of which the longer text
// loses its last ones. Throws Error (usage) for a context that has no room for a token of each.
std::vector<int64_t> tokens_of_text(const Tokenizer& tokenizer, const LabelledText& text, int64_t context);

}  // namespace loci
