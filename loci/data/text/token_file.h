// The cache file of two streams of tokens: its layout, written and read.
//
//   "LOCITOK\0"; the training tokens, the validation tokens and the notice, each filled up to 8 bytes; the footer
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "loci/base/checksum.h"
#include "loci/data/text/cache_folder.h"
#include "loci/data/text/token_span.h"

namespace loci {

struct TokenFileFooter {
  uint64_t width = 0;  // bytes of a token: 2 or 4
  uint64_t notice_bytes = 0;
  uint64_t train_tokens = 0;
  uint64_t validation_tokens = 0;
  uint64_t train_bytes = 0;  // of the texts as UTF-8
  uint64_t validation_bytes = 0;
  uint64_t train_files = 0;
  uint64_t validation_files = 0;
  uint64_t format = 0;
  std::array<char, 32> key = {};
  std::array<char, 32> checksum = {};  // of all bytes before it
};

// Writes through a sink: tokens of the training part, end_part(), of the validation part, end_part(), finish().
class TokenFileWriter {
 public:
  TokenFileWriter(const CacheFolder::Sink& sink, uint64_t width);
  void tokens(const std::vector<int32_t>& tokens);
  void end_part();
  // Takes width, notice_bytes, format and checksum upon itself.
  void finish(TokenFileFooter footer, std::string_view notice);

 private:
  void write(std::span<const std::byte> bytes);

  const CacheFolder::Sink& sink_;
  uint64_t width_;
  uint64_t written_ = 0;
  Checksum sum_;
};

// A view of a file's bytes.
struct TokenFileView {
  TokenFileFooter footer;
  std::string_view notice;
  TokenSpan train;
  TokenSpan validation;
};
// Nothing when the bytes are damaged, cut or of another key.
std::optional<TokenFileView> view_token_file(std::span<const std::byte> bytes, std::string_view key);

}  // namespace loci
