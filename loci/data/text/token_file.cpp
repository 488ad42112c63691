#include "loci/data/text/token_file.h"

#include <algorithm>
#include <cstring>

namespace loci {
namespace {

constexpr std::string_view kTokenFileStart("LOCITOK\0", 8);
constexpr uint64_t kTokenFileFormat = 2;

uint64_t in_whole_words(uint64_t bytes) {
  return (bytes + 7) / 8 * 8;
}

std::span<const std::byte> bytes_of_text(std::string_view text) {
  return std::as_bytes(std::span(text));
}

TokenSpan tokens_at(std::span<const std::byte> bytes, uint64_t offset, uint64_t width, uint64_t size) {
  const std::byte* data = bytes.data() + offset;
  const auto count = static_cast<int64_t>(size);
  if (width == 2) return {reinterpret_cast<const uint16_t*>(data), count};
  return {reinterpret_cast<const uint32_t*>(data), count};
}

}  // namespace

TokenFileWriter::TokenFileWriter(const CacheFolder::Sink& sink, uint64_t width) : sink_(sink), width_(width) {
  write(bytes_of_text(kTokenFileStart));
}

void TokenFileWriter::write(std::span<const std::byte> bytes) {
  sink_(bytes);
  sum_.add(bytes);
  written_ += bytes.size();
}

void TokenFileWriter::tokens(const std::vector<int32_t>& tokens) {
  if (width_ == 4) return write(std::as_bytes(std::span(tokens)));
  const std::vector<uint16_t> narrow(tokens.begin(), tokens.end());
  write(std::as_bytes(std::span(narrow)));
}

void TokenFileWriter::end_part() {
  const uint64_t zero = 0;
  write(std::as_bytes(std::span(&zero, 1)).first(in_whole_words(written_) - written_));
}

void TokenFileWriter::finish(TokenFileFooter footer, std::string_view notice) {
  write(bytes_of_text(notice));
  end_part();
  footer.width = width_;
  footer.notice_bytes = notice.size();
  footer.format = kTokenFileFormat;
  write(std::as_bytes(std::span(&footer, 1)).first(offsetof(TokenFileFooter, checksum)));
  const std::string sum = sum_.text();
  sink_(bytes_of_text(sum));
}

std::optional<TokenFileView> view_token_file(std::span<const std::byte> bytes, std::string_view key) {
  const uint64_t size = bytes.size();
  if (size < kTokenFileStart.size() + sizeof(TokenFileFooter)) return std::nullopt;
  TokenFileView view;
  TokenFileFooter& footer = view.footer;
  std::memcpy(&footer, bytes.data() + size - sizeof(footer), sizeof(footer));
  const std::string sum = checksum(bytes.first(size - footer.checksum.size()));
  const bool whole = std::ranges::equal(sum, footer.checksum) && std::ranges::equal(key, footer.key) &&
                     footer.format == kTokenFileFormat &&
                     std::ranges::equal(bytes.first(kTokenFileStart.size()), bytes_of_text(kTokenFileStart));
  // Each part is smaller than the file, so that the sums below cannot overflow.
  if (!whole || (footer.width != 2 && footer.width != 4) || footer.notice_bytes > size || footer.train_tokens > size ||
      footer.validation_tokens > size) {
    return std::nullopt;
  }
  const uint64_t train_at = kTokenFileStart.size();
  const uint64_t validation_at = train_at + in_whole_words(footer.train_tokens * footer.width);
  const uint64_t notice_at = validation_at + in_whole_words(footer.validation_tokens * footer.width);
  if (notice_at + in_whole_words(footer.notice_bytes) + sizeof(footer) != size) return std::nullopt;
  view.train = tokens_at(bytes, train_at, footer.width, footer.train_tokens);
  view.validation = tokens_at(bytes, validation_at, footer.width, footer.validation_tokens);
  view.notice = {reinterpret_cast<const char*>(bytes.data()) + notice_at, footer.notice_bytes};
  return view;
}

}  // namespace loci
