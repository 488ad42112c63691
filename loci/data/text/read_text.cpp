// A text file's bytes as UTF-8 (text_folder.h).
#include "loci/base/check.h"
#include "loci/base/checksum.h"
#include "loci/base/utf8.h"
#include "loci/data/input_file.h"
#include "loci/data/text/text_folder.h"

namespace loci {
namespace {

class TextDecoder {
 public:
  TextDecoder(const TextFile& file, const TextFolderOptions& options) : file_(file), options_(options) {}

  std::string text;
  int64_t replaced = 0;

  void utf8(std::string_view bytes) {
    text.reserve(bytes.size());
    for (size_t begin = 0; begin < bytes.size();) {
      size_t end = begin;
      Utf8Step step = {0, true, false};
      while (step.valid && end < bytes.size()) {
        step = utf8_step(bytes.substr(end));
        if (step.valid) end += step.length;
      }
      text += bytes.substr(begin, end - begin);
      if (!step.valid) malformed("UTF-8", bytes, end);
      begin = end + (step.valid ? 0 : step.length);
    }
  }

  void utf16(std::string_view bytes, size_t low) {
    const auto unit = [bytes, low](size_t i) -> char32_t {
      return static_cast<unsigned char>(bytes[i + low]) | static_cast<unsigned char>(bytes[i + 1 - low]) << 8;
    };
    for (size_t i = 0; i < bytes.size(); i += 2) {
      if (i + 1 == bytes.size()) return malformed("UTF-16", bytes, i);
      const char32_t first = unit(i);
      if (first < 0xD800 || first > 0xDFFF) {
        append_utf8(text, first);
      } else if (first < 0xDC00 && i + 3 < bytes.size() && unit(i + 2) >= 0xDC00 && unit(i + 2) <= 0xDFFF) {
        append_utf8(text, 0x10000 + ((first - 0xD800) << 10) + (unit(i + 2) - 0xDC00));
        i += 2;
      } else {
        malformed("UTF-16", bytes, i);
      }
    }
  }

 private:
  void malformed(std::string_view encoding, std::string_view bytes, size_t at) {
    if (options_.encoding_errors == "error") {
      fail(ExitCode::input, file_.path.string(), fmt::format("the text must be {}", encoding),
           fmt::format("byte 0x{:02X} at offset {}", static_cast<unsigned char>(bytes[at]), file_.begin + at));
    }
    text += kReplacement;
    ++replaced;
  }

  const TextFile& file_;
  const TextFolderOptions& options_;
};

}  // namespace

std::string read_text(const TextFile& file, const TextFolderOptions& options, int64_t* replaced) {
  const std::string bytes = InputFile(file.path).read(file.begin, file.end - file.begin);
  if (!file.sum.empty() && checksum(std::as_bytes(std::span(bytes))) != file.sum) {
    fail(ExitCode::input, file.path.string(), "the file must stay as it is while it is read",
         "other bytes than before");
  }
  TextDecoder decoder(file, options);
  if (file.encoding == TextEncoding::utf8) {
    decoder.utf8(bytes);
  } else {
    decoder.utf16(bytes, file.encoding == TextEncoding::utf16_little ? 0 : 1);
  }
  if (replaced != nullptr) *replaced = decoder.replaced;
  return std::move(decoder.text);
}

}  // namespace loci
