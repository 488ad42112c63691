#include "loci/data/text/encode_texts.h"

#include <algorithm>
#include <atomic>
#include <limits>
#include <span>
#include <string>
#include <vector>

#include "loci/base/check.h"
#include "loci/base/stop_signal.h"
#include "loci/data/parallel_items.h"
#include "loci/data/text/token_file.h"

namespace loci {
namespace {

constexpr uint64_t kWaveBytes = 16 << 20;  // text encoded at a time: bounds the memory
constexpr size_t kSliceBytes = 1 << 20;    // of a file, between two looks at signals and progress

void check_encoding_goes_on() {
  StopSignal::check("stopped while text became tokens; nothing was kept");
}

// Where the slice of `text` from `begin` ends: behind a run of line ends, where the tokenizer cuts in any case.
size_t slice_end(std::string_view text, size_t begin) {
  if (text.size() - begin <= kSliceBytes) return text.size();
  const size_t line_end = text.find('\n', begin + kSliceBytes);
  if (line_end == std::string_view::npos) return text.size();
  const size_t next = text.find_first_not_of('\n', line_end);
  return next == std::string_view::npos ? text.size() : next;
}

struct EncodedText {
  std::vector<int32_t> tokens;
  uint64_t bytes = 0;
  int64_t replaced = 0;
};

class TextEncoder {
 public:
  TextEncoder(const TextFolderOptions& options, const Tokenizer& tokenizer, uint64_t total_bytes,
              TokenFileWriter& writer, ProgressLine& progress)
      : options_(options),
        tokenizer_(tokenizer),
        total_bytes_(static_cast<double>(total_bytes)),
        writer_(writer),
        progress_(progress),
        caches_(item_threads(std::numeric_limits<int64_t>::max())) {}

  void run(const std::vector<TextFile>& files, uint64_t& tokens, uint64_t& bytes) {
    for (size_t begin = 0; begin < files.size();) {
      size_t end = begin;
      for (uint64_t size = 0; end < files.size() && (end == begin || size < kWaveBytes); ++end) {
        size += files[end].end - files[end].begin;
      }
      const std::vector<EncodedText> wave = encode_wave(std::span(files).subspan(begin, end - begin));
      for (size_t i = 0; i < wave.size(); ++i) {
        writer_.tokens(wave[i].tokens);
        tokens += wave[i].tokens.size();
        bytes += wave[i].bytes;
        if (wave[i].replaced > 0) malformed_.add(fmt::format("{}: {}", files[begin + i].name, wave[i].replaced));
        replaced_ += wave[i].replaced;
      }
      begin = end;
    }
    writer_.end_part();
  }

  std::string notice() const {
    if (replaced_ == 0) return "";
    return fmt::format("{} {} not valid text and became U+FFFD, in {} {} ({})", replaced_,
                       replaced_ == 1 ? "place is" : "places are", malformed_.count,
                       malformed_.count == 1 ? "file" : "files", malformed_.text());
  }

 private:
  std::vector<EncodedText> encode_wave(std::span<const TextFile> files) {
    std::vector<EncodedText> results(files.size());
    parallel_items(std::ssize(files),
                   [&](int64_t i, int64_t thread) { encode_file(files[i], caches_[thread], thread == 0, results[i]); });
    return results;
  }

  void encode_file(const TextFile& file, Tokenizer::WordCache& cache, bool shows_progress, EncodedText& result) {
    const std::string text = read_text(file, options_, &result.replaced);
    result.bytes = text.size();
    for (size_t begin = 0; begin < text.size();) {
      check_encoding_goes_on();
      const size_t end = slice_end(text, begin);
      tokenizer_.encode(std::string_view(text).substr(begin, end - begin), cache, result.tokens);
      done_bytes_ += end - begin;
      begin = end;
      if (!shows_progress) continue;
      progress_.show(fmt::format("tokens: {} of {} of text", format_bytes(static_cast<double>(done_bytes_)),
                                 format_bytes(total_bytes_)));
    }
    result.tokens.push_back(tokenizer_.end_of_text());
  }

  const TextFolderOptions& options_;
  const Tokenizer& tokenizer_;
  double total_bytes_;
  TokenFileWriter& writer_;
  ProgressLine& progress_;
  std::vector<Tokenizer::WordCache> caches_;  // one for each thread
  std::atomic<uint64_t> done_bytes_ = 0;
  CountedNames malformed_;
  int64_t replaced_ = 0;
};

}  // namespace

void encode_texts(const TextSplit& split, const TextFolderOptions& options, const Tokenizer& tokenizer,
                  std::string_view key, const CacheFolder::Sink& sink, ProgressLine& progress) {
  const StopSignal signals("stopping");
  uint64_t total_bytes = 0;
  for (const auto* part : {&split.train, &split.validation}) {
    for (const TextFile& file : *part) total_bytes += file.end - file.begin;
  }
  TokenFileFooter footer;
  std::ranges::copy(key, footer.key.begin());
  footer.train_files = split.train.size();
  footer.validation_files = split.validation.size();
  TokenFileWriter writer(sink, tokenizer.vocabulary() <= 65536 ? 2 : 4);
  TextEncoder encoder(options, tokenizer, total_bytes, writer, progress);
  encoder.run(split.train, footer.train_tokens, footer.train_bytes);
  encoder.run(split.validation, footer.validation_tokens, footer.validation_bytes);
  check_encoding_goes_on();  // a signal during the last slice: nobody looks for it later
  writer.finish(footer, encoder.notice());
}

}  // namespace loci
