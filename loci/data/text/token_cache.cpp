#include "loci/data/text/token_cache.h"

#include <xxhash.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstddef>
#include <cstring>
#include <exception>
#include <optional>
#include <thread>
#include <utility>

#include "loci/base/check.h"
#include "loci/base/config.h"
#include "loci/base/durable_file.h"

namespace loci {
namespace {

namespace fs = std::filesystem;

constexpr char kMagic[8] = {'L', 'O', 'C', 'I', 'T', 'O', 'K', '\0'};
constexpr uint64_t kFormat = 1;
constexpr uint64_t kWaveBytes = 16 << 20;  // text encoded at a time: bounds the memory

using Key = std::array<uint64_t, 2>;

// The end of a cache file; the checksum covers all bytes before itself.
struct Footer {
  uint64_t width;  // bytes of a token
  uint64_t tokenizer_bytes;
  uint64_t train_tokens;
  uint64_t validation_tokens;
  uint64_t train_bytes;
  uint64_t validation_bytes;
  uint64_t train_files;
  uint64_t validation_files;
  uint64_t replaced;
  Key key;
  uint64_t format;
  char magic[8];
  Key checksum;
};

uint64_t padded(uint64_t bytes) {
  return (bytes + 7) / 8 * 8;
}

struct HashState {
  HashState() : state(XXH3_createState()) { XXH3_128bits_reset(state); }
  ~HashState() { XXH3_freeState(state); }
  HashState(const HashState&) = delete;
  HashState& operator=(const HashState&) = delete;
  void add(const void* data, size_t size) { XXH3_128bits_update(state, data, size); }
  Key sum() const {
    const XXH128_hash_t hash = XXH3_128bits_digest(state);
    return {hash.high64, hash.low64};
  }
  XXH3_state_t* state;
};

Key key_of(const TextSplit& split, const TextFolderOptions& text_options, const std::string& tokenizer) {
  HashState hash;
  const std::string settings = Config::write(text_options);
  const uint64_t facts[] = {kFormat, split.content[0], split.content[1], settings.size()};
  hash.add(facts, sizeof(facts));
  hash.add(settings.data(), settings.size());
  hash.add(tokenizer.data(), tokenizer.size());
  return hash.sum();
}

class CacheWriter {
 public:
  explicit CacheWriter(const fs::path& path) : file_(path) { write(kMagic, sizeof(kMagic)); }

  void write(const void* data, size_t size) {
    file_.write(std::span(static_cast<const std::byte*>(data), size));
    hash_.add(data, size);
    written_ += size;
  }
  void pad() {
    const uint64_t zero = 0;
    write(&zero, padded(written_) - written_);
  }
  void tokens(const std::vector<int32_t>& tokens, uint64_t width) {
    if (width == 4) return write(tokens.data(), tokens.size() * 4);
    const std::vector<uint16_t> narrow(tokens.begin(), tokens.end());
    write(narrow.data(), narrow.size() * 2);
  }
  void finish(Footer footer) {
    footer.format = kFormat;
    std::memcpy(footer.magic, kMagic, sizeof(kMagic));
    write(&footer, offsetof(Footer, checksum));
    footer.checksum = hash_.sum();
    file_.write(std::as_bytes(std::span(&footer.checksum, 1)));
    file_.commit();
  }

 private:
  DurableFile file_;
  HashState hash_;
  uint64_t written_ = 0;
};

std::string_view text_at(const MappedFile& file, uint64_t offset, uint64_t size) {
  return {reinterpret_cast<const char*>(file.bytes().data()) + offset, size};
}

TokenSpan span_at(const MappedFile& file, uint64_t offset, uint64_t width, uint64_t size) {
  const std::byte* data = file.bytes().data() + offset;
  const auto count = static_cast<int64_t>(size);
  if (width == 2) return {reinterpret_cast<const uint16_t*>(data), count};
  return {reinterpret_cast<const uint32_t*>(data), count};
}

// The cache file as data, or nothing when it is damaged, cut or of another key.
std::optional<TokenData> load_cache(const fs::path& path, const Key& key) {
  MappedFile file(path);
  const uint64_t size = file.bytes().size();
  if (size < sizeof(kMagic) + sizeof(Footer)) return std::nullopt;
  Footer footer;
  std::memcpy(&footer, file.bytes().data() + size - sizeof(Footer), sizeof(Footer));
  const XXH128_hash_t sum = XXH3_128bits(file.bytes().data(), size - sizeof(Key));
  const bool whole = footer.checksum == Key{sum.high64, sum.low64} && footer.key == key && footer.format == kFormat &&
                     std::memcmp(footer.magic, kMagic, sizeof(kMagic)) == 0;
  const uint64_t limit = size;  // each part is smaller than the file, so that sums below cannot overflow
  if (!whole || (footer.width != 2 && footer.width != 4) || footer.tokenizer_bytes > limit ||
      footer.train_tokens > limit || footer.validation_tokens > limit) {
    return std::nullopt;
  }
  const uint64_t train_at = sizeof(kMagic) + padded(footer.tokenizer_bytes);
  const uint64_t validation_at = train_at + padded(footer.train_tokens * footer.width);
  if (validation_at + padded(footer.validation_tokens * footer.width) + sizeof(Footer) != size) return std::nullopt;
  TokenData data{Tokenizer::load(text_at(file, sizeof(kMagic), footer.tokenizer_bytes)), std::move(file)};
  data.train = span_at(data.file, train_at, footer.width, footer.train_tokens);
  data.validation = span_at(data.file, validation_at, footer.width, footer.validation_tokens);
  data.train_bytes = static_cast<int64_t>(footer.train_bytes);
  data.validation_bytes = static_cast<int64_t>(footer.validation_bytes);
  data.train_files = static_cast<int64_t>(footer.train_files);
  data.validation_files = static_cast<int64_t>(footer.validation_files);
  if (footer.replaced > 0) {
    data.notices.push_back(fmt::format("{} places are not valid UTF-8 and became U+FFFD", footer.replaced));
  }
  return data;
}

uint64_t bytes_of(const std::vector<TextFile>& files) {
  uint64_t bytes = 0;
  for (const TextFile& file : files) bytes += file.end - file.begin;
  return bytes;
}

Tokenizer train_tokenizer(const TextSplit& split, const TextFolderOptions& text_options,
                          const TokenizerOptions& options, ProgressLine& progress) {
  const uint64_t total = bytes_of(split.train);
  if (options.kind == "bpe") {
    progress.show(fmt::format("tokenizer: learning {} pieces from {} of text", options.vocabulary,
                              format_bytes(static_cast<double>(std::min<uint64_t>(total, options.training_bytes)))));
  }
  size_t next = 0;
  return Tokenizer::train(options, static_cast<int64_t>(total), [&](std::string& text) {
    if (next == split.train.size()) return false;
    text = read_text(split.train[next++], text_options);
    return true;
  });
}

struct Encoded {
  std::vector<int32_t> tokens;
  uint64_t bytes = 0;
  int64_t replaced = 0;
};

// Encodes the files of a list, many at a time, and writes them in order.
class Encoder {
 public:
  Encoder(const Tokenizer& tokenizer, const TextFolderOptions& options, CacheWriter& writer, uint64_t width,
          uint64_t total_bytes, ProgressLine& progress)
      : tokenizer_(tokenizer),
        options_(options),
        writer_(writer),
        width_(width),
        total_bytes_(total_bytes),
        progress_(progress),
        caches_(std::max(1u, std::thread::hardware_concurrency())) {}

  void run(const std::vector<TextFile>& files, uint64_t& tokens, uint64_t& bytes, uint64_t& replaced) {
    for (size_t begin = 0; begin < files.size();) {
      size_t end = begin;
      for (uint64_t size = 0; end < files.size() && (end == begin || size < kWaveBytes); ++end) {
        size += files[end].end - files[end].begin;
      }
      for (const Encoded& encoded : wave(std::span(files).subspan(begin, end - begin))) {
        writer_.tokens(encoded.tokens, width_);
        tokens += encoded.tokens.size();
        bytes += encoded.bytes;
        replaced += static_cast<uint64_t>(encoded.replaced);
        done_bytes_ += encoded.bytes;
      }
      begin = end;
      progress_.show(fmt::format("tokens: {} of {} of text", format_bytes(static_cast<double>(done_bytes_)),
                                 format_bytes(static_cast<double>(total_bytes_))));
    }
    writer_.pad();
  }

 private:
  std::vector<Encoded> wave(std::span<const TextFile> files) {
    std::vector<Encoded> results(files.size());
    std::vector<std::exception_ptr> errors(files.size());
    std::atomic<size_t> next = 0;
    const auto work = [&](Tokenizer::WordCache& cache) {
      for (size_t i = next++; i < files.size(); i = next++) {
        try {
          const std::string text = read_text(files[i], options_, &results[i].replaced);
          results[i].bytes = text.size();
          tokenizer_.encode(text, cache, results[i].tokens);
          results[i].tokens.push_back(tokenizer_.end_of_text());
        } catch (...) {
          errors[i] = std::current_exception();
        }
      }
    };
    {
      std::vector<std::jthread> threads;
      for (size_t t = 1; t < std::min(caches_.size(), files.size()); ++t)
        threads.emplace_back(work, std::ref(caches_[t]));
      work(caches_[0]);
    }
    for (const std::exception_ptr& error : errors) {
      if (error) std::rethrow_exception(error);
    }
    return results;
  }

  const Tokenizer& tokenizer_;
  const TextFolderOptions& options_;
  CacheWriter& writer_;
  uint64_t width_;
  uint64_t total_bytes_;
  ProgressLine& progress_;
  std::vector<Tokenizer::WordCache> caches_;
  uint64_t done_bytes_ = 0;
};

void build_cache(const fs::path& path, const Key& key, const TextSplit& split, const TextFolderOptions& options,
                 const Tokenizer& tokenizer, ProgressLine& progress) {
  Footer footer = {};
  footer.key = key;
  footer.width = tokenizer.vocabulary() <= 65536 ? 2 : 4;
  footer.tokenizer_bytes = tokenizer.save().size();
  footer.train_files = split.train.size();
  footer.validation_files = split.validation.size();
  CacheWriter writer(path);
  writer.write(tokenizer.save().data(), tokenizer.save().size());
  writer.pad();
  Encoder encoder(tokenizer, options, writer, footer.width, bytes_of(split.train) + bytes_of(split.validation),
                  progress);
  encoder.run(split.train, footer.train_tokens, footer.train_bytes, footer.replaced);
  encoder.run(split.validation, footer.validation_tokens, footer.validation_bytes, footer.replaced);
  writer.finish(footer);
}

// Opens or builds; `tokenizer` is what the cache depends on, `make` gives it when the cache must be built.
template <class Make>
TokenData open(const fs::path& path, const TextFolderOptions& options, const std::string& tokenizer, Make make,
               const fs::path& cache_dir, ProgressLine& progress) {
  const TextFileList list = list_text_files(path, options);
  const TextSplit split = split_text_files(list, options);
  const Key key = key_of(split, options, tokenizer);
  std::error_code error;
  fs::create_directories(cache_dir, error);
  if (error) fail(ExitCode::input, cache_dir.string(), "the cache folder must be creatable", error.message());
  const fs::path cache = cache_dir / fmt::format("tokens-{:016x}{:016x}.bin", key[0], key[1]);
  std::vector<std::string> notices;
  std::optional<TokenData> data;
  if (fs::exists(cache)) {
    data = load_cache(cache, key);
    if (!data) notices.push_back(fmt::format("{} was damaged and is built anew", cache.string()));
  }
  const bool rebuild = !data;
  if (rebuild) {
    build_cache(cache, key, split, options, make(split), progress);
    data = load_cache(cache, key);
    if (!data) fail(ExitCode::input, cache.string(), "the cache must read back as written", "other bytes");
  }
  const std::pair<int64_t, const char*> left_out[] = {{list.binary, "binary files"},
                                                      {list.links, "broken or circular links and devices"},
                                                      {split.duplicates, "files with the same bytes as another"}};
  for (const auto& [count, what] : left_out) {
    if (count > 0) notices.push_back(fmt::format("left out: {} {}", count, what));
  }
  data->notices.insert(data->notices.begin(), notices.begin(), notices.end());
  data->rebuilt = rebuild;
  progress.finish();
  return std::move(*data);
}

}  // namespace

TokenData open_tokens(const fs::path& path, const TextFolderOptions& text_options,
                      const TokenizerOptions& tokenizer_options, const fs::path& cache_dir, ProgressLine& progress) {
  return open(
      path, text_options, "options\n" + Config::write(tokenizer_options),
      [&](const TextSplit& split) { return train_tokenizer(split, text_options, tokenizer_options, progress); },
      cache_dir, progress);
}

TokenData open_tokens(const fs::path& path, const TextFolderOptions& text_options, const Tokenizer& tokenizer,
                      const fs::path& cache_dir, ProgressLine& progress) {
  return open(
      path, text_options, "saved\n" + tokenizer.save(), [&](const TextSplit&) { return tokenizer; }, cache_dir,
      progress);
}

}  // namespace loci
