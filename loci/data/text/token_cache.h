// Text files as two streams of tokens, prepared once and kept in a cache folder:
//
//   files-KEY.list        which texts the data holds (FileInventory), to say later what changed
//   tokenizer-KEY.model   a learned tokenizer, of those texts and the tokenizer's options
//   tokens-KEY.bin        both streams (token_file.h), of those texts and a tokenizer, whether learned or given
//
// Files are named after the checksum of what they depend on; when one of these changes, another file is made. They are
// written durably, so several processes may open the same data at once, and damaged ones are made anew. Each text ends
// with the tokenizer's end-of-text token.
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "loci/base/progress.h"
#include "loci/data/text/text_folder.h"
#include "loci/data/text/token_span.h"
#include "loci/data/text/tokenizer.h"

namespace loci {

// What was opened stays as it is, whatever happens to the folder and the cache.
struct TokenData {
  Tokenizer tokenizer;
  std::shared_ptr<const void> storage = nullptr;  // holds both streams
  TokenSpan train = {};
  TokenSpan validation = {};
  int64_t train_bytes = 0;  // of the texts as UTF-8: the denominator of bits per byte
  int64_t validation_bytes = 0;
  int64_t train_files = 0;  // or blocks of a single file
  int64_t validation_files = 0;
  std::string key = {};                   // FileInventory::key(): equal for the same data
  std::vector<std::string> notices = {};  // what a user should know: files left out, bytes replaced, few tokens
};

// Learns the tokenizer from the training part, or takes it from the cache. Throws Error (input) for data that cannot be
// read, and Interrupted after a signal.
TokenData open_tokens(const std::filesystem::path& path, const TextFolderOptions& text_options,
                      const TokenizerOptions& tokenizer_options, const std::filesystem::path& cache_dir,
                      ProgressLine& progress);

// With a tokenizer that exists, for instance that of a checkpoint.
TokenData open_tokens(const std::filesystem::path& path, const TextFolderOptions& text_options,
                      const Tokenizer& tokenizer, const std::filesystem::path& cache_dir, ProgressLine& progress);

// What is different between the data of two keys, as far as the cache remembers them; or empty.
std::string changes_of_data(std::string_view key_before, std::string_view key_now,
                            const std::filesystem::path& cache_dir);

}  // namespace loci
