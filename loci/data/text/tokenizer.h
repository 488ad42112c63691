// Text to tokens and back, exactly: decode(encode(text)) == text for any bytes.
//
// "bpe" is sentencepiece's byte pair encoding with byte fallback, without normalisation and with whitespace kept. Text
// is cut into words before a run of spaces and behind a run of line ends; no piece reaches over a cut. What
// sentencepiece cannot keep (U+2581, its sign for a space; NUL; malformed UTF-8) goes byte by byte.
// "bytes" has one token a byte. Both have one more token that ends a text.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "loci/base/config_fields.h"

namespace loci {

struct TokenizerOptions {
  std::string kind = "bpe";            // or "bytes"
  int64_t vocabulary = 4096;           // bpe: tokens at most; fewer when the text is small
  int64_t training_bytes = 6'000'000;  // bpe: an even sample of the training text, at most this large
  double character_coverage = 0.9995;  // bpe: share of the characters that get a token; at most a half of them
  void fields(ConfigFields& f);
};

class Tokenizer {
 public:
  // Gives the next text, or false at the end.
  using TextSource = std::function<bool(std::string& text)>;

  // Words that were encoded before; one for each thread.
  class WordCache {
    friend class Tokenizer;
    struct Hash {
      using is_transparent = void;
      size_t operator()(std::string_view word) const { return std::hash<std::string_view>{}(word); }
    };
    std::unordered_map<std::string, std::vector<int>, Hash, std::equal_to<>> words_;
  };

  // `total_bytes` is the size of all texts of `next`, for the sample. The same texts give the same tokenizer.
  static Tokenizer train(const TokenizerOptions& options, int64_t total_bytes, const TextSource& next);
  // Throws Error (input); `who` begins its message: the file that the text comes from.
  static Tokenizer load(std::string_view saved, std::string_view who = "tokenizer");
  const std::string& save() const;

  int64_t vocabulary() const;
  int32_t end_of_text() const;
  std::vector<int32_t> encode(std::string_view text) const;
  void encode(std::string_view text, WordCache& cache, std::vector<int32_t>& tokens) const;
  // The end-of-text token decodes to nothing. Throws Error (input) for a token outside the vocabulary.
  std::string decode(std::span<const int32_t> tokens) const;
  std::string_view bytes_of(int32_t token) const;

 private:
  struct State;
  explicit Tokenizer(std::shared_ptr<const State> state) : state_(std::move(state)) {}
  void encode_word(std::string_view word, WordCache& cache, std::vector<int32_t>& tokens) const;

  std::shared_ptr<const State> state_;
};

// Decodes while tokens are still coming: gives whole characters only, U+FFFD for what cannot become one.
class StreamDecoder {
 public:
  explicit StreamDecoder(Tokenizer tokenizer) : tokenizer_(std::move(tokenizer)) {}
  std::string push(int32_t token);
  std::string finish();

 private:
  Tokenizer tokenizer_;
  std::string pending_;
};

}  // namespace loci
