// Text files as two streams of tokens, kept in a mapped cache file.
//
// The file is named after XXH3-128 of the texts (names and bytes), the settings and the format: when one changes,
// another file is built. It holds the tokenizer, both streams and, at its end, sizes and a checksum; a damaged one is
// rebuilt. It is written durably, so several processes may open the same data at once. Each text ends with the
// tokenizer's end-of-text token.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "loci/base/mapped_file.h"
#include "loci/base/progress.h"
#include "loci/data/text/text_folder.h"
#include "loci/data/text/token_span.h"
#include "loci/data/text/tokenizer.h"

namespace loci {

struct TokenData {
  Tokenizer tokenizer;
  MappedFile file;  // holds both streams
  TokenSpan train = {};
  TokenSpan validation = {};
  int64_t train_bytes = 0;  // of the texts as UTF-8: the denominator of bits per byte
  int64_t validation_bytes = 0;
  int64_t train_files = 0;  // or blocks of a single file
  int64_t validation_files = 0;
  bool rebuilt = false;                   // false: came from the cache
  std::vector<std::string> notices = {};  // what a user should know: files left out, bytes replaced, a damaged cache
};

// Trains the tokenizer on the training part, or takes it from the cache.
TokenData open_tokens(const std::filesystem::path& path, const TextFolderOptions& text_options,
                      const TokenizerOptions& tokenizer_options, const std::filesystem::path& cache_dir,
                      ProgressLine& progress);

// With a tokenizer that exists, for instance that of a checkpoint.
TokenData open_tokens(const std::filesystem::path& path, const TextFolderOptions& text_options,
                      const Tokenizer& tokenizer, const std::filesystem::path& cache_dir, ProgressLine& progress);

}  // namespace loci
