#include "loci/data/text/token_cache.h"

#include <algorithm>
#include <chrono>
#include <future>
#include <mutex>
#include <optional>
#include <utility>

#include "loci/base/check.h"
#include "loci/base/checksum.h"
#include "loci/base/config.h"
#include "loci/base/durable_file.h"
#include "loci/base/stop_signal.h"
#include "loci/data/text/cache_folder.h"
#include "loci/data/text/encode_texts.h"
#include "loci/data/text/token_file.h"

namespace loci {
namespace {

namespace fs = std::filesystem;

// What the files of the cache depend on in addition to their inputs. Another number makes all of them anew.
constexpr std::string_view kCacheFormat = "loci text cache 2\n";

std::string cache_key(std::initializer_list<std::string_view> parts) {
  Checksum sum;
  sum.add(kCacheFormat);
  for (const std::string_view part : parts) {
    sum.add(fmt::format("{} ", part.size()));
    sum.add(part);
  }
  return sum.text();
}

std::string inventory_file(std::string_view data_key) {
  return fmt::format("files-{}.list", data_key.substr(data_key.rfind(' ') + 1));
}

// A text of the cache, after a line with its checksum; nothing when it is not there or damaged.
std::optional<std::string> load_text(const CacheFolder& cache, const std::string& name) {
  const auto file = cache.find(name);
  if (!file) return std::nullopt;
  const std::string_view bytes(reinterpret_cast<const char*>(file->bytes().data()), file->bytes().size());
  const std::string_view text = bytes.substr(std::min<size_t>(bytes.size(), 33));
  if (bytes.substr(0, 33) != checksum(std::as_bytes(std::span(text))) + "\n") return std::nullopt;
  return std::string(text);
}

void store_text(CacheFolder& cache, const std::string& name, const std::string& text) {
  cache.store(name, [&](const CacheFolder::Sink& sink) {
    const std::string start = checksum(std::as_bytes(std::span(text))) + "\n";
    sink(std::as_bytes(std::span(start)));
    sink(std::as_bytes(std::span(text)));
  });
}

// The texts of a data folder, before they are tokens.
struct Texts {
  TextFileList list;
  TextSplit split;
  std::string key;
};

Texts find_texts(const fs::path& path, const TextFolderOptions& options, CacheFolder& cache, ProgressLine& progress) {
  Texts texts = {list_text_files(path, options), {}, {}};
  texts.split = split_text_files(texts.list, options, progress);
  texts.key = texts.split.inventory.key();
  const std::string name = inventory_file(texts.key);
  if (!load_text(cache, name)) store_text(cache, name, texts.split.inventory.save());
  return texts;
}

uint64_t bytes_of_texts(const std::vector<TextFile>& files) {
  uint64_t bytes = 0;
  for (const TextFile& file : files) bytes += file.end - file.begin;
  return bytes;
}

// Learning may take minutes, which sentencepiece says nothing about: another thread learns, this one tells the time.
Tokenizer learn_tokenizer(const TextSplit& split, const TextFolderOptions& text_options,
                          const TokenizerOptions& options, ProgressLine& progress) {
  const uint64_t total = bytes_of_texts(split.train);
  size_t next = 0;
  auto learned = std::async(std::launch::async, [&] {
    return Tokenizer::train(options, static_cast<int64_t>(total), [&](std::string& text) {
      if (next == split.train.size()) return false;
      text = read_text(split.train[next++], text_options);
      return true;
    });
  });
  const auto begin = std::chrono::steady_clock::now();
  while (learned.wait_for(std::chrono::milliseconds(100)) != std::future_status::ready) {
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
    progress.show(fmt::format("tokenizer: learning {} pieces from {} of text, {}", options.vocabulary,
                              format_bytes(static_cast<double>(std::min<uint64_t>(total, options.training_bytes))),
                              format_seconds(seconds.count())));
  }
  return learned.get();
}

Tokenizer learned_tokenizer(const Texts& texts, const TextFolderOptions& text_options, const TokenizerOptions& options,
                            CacheFolder& cache, std::vector<std::string>& notices, ProgressLine& progress) {
  if (options.kind == "bytes") return learn_tokenizer(texts.split, text_options, options, progress);
  const std::string name = fmt::format("tokenizer-{}.model", cache_key({texts.key, Config::write(options)}));
  const auto known = load_text(cache, name);
  const Tokenizer tokenizer =
      known ? Tokenizer::load(*known) : learn_tokenizer(texts.split, text_options, options, progress);
  if (!known) store_text(cache, name, tokenizer.save());
  if (tokenizer.vocabulary() < options.vocabulary) {
    notices.push_back(
        fmt::format("the tokenizer has {} tokens, fewer than tokenizer.vocabulary = {}: the text has no "
                    "more that repeat",
                    tokenizer.vocabulary(), options.vocabulary));
  }
  return tokenizer;
}

TokenData as_token_data(const Tokenizer& tokenizer, const TokenFileView& view, std::shared_ptr<const void> storage) {
  TokenData data{tokenizer, std::move(storage), view.train, view.validation};
  data.train_bytes = static_cast<int64_t>(view.footer.train_bytes);
  data.validation_bytes = static_cast<int64_t>(view.footer.validation_bytes);
  data.train_files = static_cast<int64_t>(view.footer.train_files);
  data.validation_files = static_cast<int64_t>(view.footer.validation_files);
  if (!view.notice.empty()) data.notices.emplace_back(view.notice);
  return data;
}

std::optional<TokenData> load_tokens(const CacheFolder& cache, const std::string& name, std::string_view key,
                                     const Tokenizer& tokenizer) {
  auto file = cache.find(name);
  if (!file) return std::nullopt;
  const auto shared = std::make_shared<MappedFile>(std::move(*file));
  const auto view = view_token_file(shared->bytes(), key);
  if (!view) return std::nullopt;
  return as_token_data(tokenizer, *view, shared);
}

// The streams in the cache file or, where there can be none, in memory.
TokenData make_tokens(const Texts& texts, const TextFolderOptions& options, const Tokenizer& tokenizer,
                      CacheFolder& cache, const std::string& name, std::string_view key, ProgressLine& progress) {
  const auto write = [&](const CacheFolder::Sink& sink) {
    encode_texts(texts.split, options, tokenizer, key, sink, progress);
  };
  if (cache.store(name, write)) {
    auto data = load_tokens(cache, name, key, tokenizer);
    if (!data) fail(ExitCode::input, cache.path(name).string(), "the cache must read back as written", "other bytes");
    return std::move(*data);
  }
  const auto memory = std::make_shared<std::vector<std::byte>>();
  write([&](std::span<const std::byte> bytes) { memory->insert(memory->end(), bytes.begin(), bytes.end()); });
  const auto view = view_token_file(*memory, key);
  if (!view) fail(ExitCode::bug, "token_cache", "tokens must read back as written", "other bytes");
  return as_token_data(tokenizer, *view, memory);
}

TokenData tokens_of(const Texts& texts, const TextFolderOptions& options, const Tokenizer& tokenizer,
                    CacheFolder& cache, std::vector<std::string>& notices, ProgressLine& progress) {
  const std::string key = cache_key({texts.key, tokenizer.save()});
  const std::string name = fmt::format("tokens-{}.bin", key);
  std::optional<TokenData> data = load_tokens(cache, name, key, tokenizer);
  std::error_code error;
  if (!data && fs::exists(cache.path(name), error)) {
    notices.push_back(fmt::format("{} was damaged and is made anew", cache.path(name).string()));
  }
  if (!data) data = make_tokens(texts, options, tokenizer, cache, name, key, progress);
  data->key = texts.key;
  const std::pair<const CountedNames*, const char*> left_out[] = {
      {&texts.list.binary, "binary files"},
      {&texts.list.links, "broken or circular links and devices"},
      {&texts.split.duplicates, "files with the same bytes as another"}};
  for (const auto& [names, what] : left_out) {
    if (names->count > 0) notices.push_back(fmt::format("left out: {} {} ({})", names->count, what, names->text()));
  }
  notices.insert(notices.end(), cache.notices().begin(), cache.notices().end());
  data->notices.insert(data->notices.begin(), notices.begin(), notices.end());
  progress.finish();
  return std::move(*data);
}

}  // namespace

TokenData open_tokens(const fs::path& path, const TextFolderOptions& text_options,
                      const TokenizerOptions& tokenizer_options, const fs::path& cache_dir, ProgressLine& progress) {
  CacheFolder cache(cache_dir);
  std::vector<std::string> notices;
  const Texts texts = find_texts(path, text_options, cache, progress);
  const Tokenizer tokenizer = learned_tokenizer(texts, text_options, tokenizer_options, cache, notices, progress);
  return tokens_of(texts, text_options, tokenizer, cache, notices, progress);
}

TokenData open_tokens(const fs::path& path, const TextFolderOptions& text_options, const Tokenizer& tokenizer,
                      const fs::path& cache_dir, ProgressLine& progress) {
  CacheFolder cache(cache_dir);
  std::vector<std::string> notices;
  const Texts texts = find_texts(path, text_options, cache, progress);
  return tokens_of(texts, text_options, tokenizer, cache, notices, progress);
}

std::string changes_of_data(std::string_view key_before, std::string_view key_now, const fs::path& cache_dir) {
  const CacheFolder cache(cache_dir);
  const auto inventory = [&](std::string_view key) -> std::optional<FileInventory> {
    const auto saved = load_text(cache, inventory_file(key));
    return saved ? FileInventory::load(*saved) : std::nullopt;
  };
  const auto before = inventory(key_before);
  const auto now = inventory(key_now);
  return before && now ? changes_between(*before, *now) : "";
}

}  // namespace loci
