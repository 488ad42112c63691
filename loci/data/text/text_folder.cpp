#include "loci/data/text/text_folder.h"

#include <sys/stat.h>
#include <xxhash.h>

#include <algorithm>
#include <cstddef>
#include <set>
#include <string_view>
#include <system_error>
#include <utility>

#include "loci/base/check.h"
#include "loci/base/mapped_file.h"
#include "loci/data/text/utf8.h"

namespace loci {
namespace {

namespace fs = std::filesystem;

constexpr size_t kSniffBytes = 64 << 10;
constexpr uint64_t kBlockBytes = 64 << 10;

std::string_view view(const MappedFile& file) {
  return {reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size()};
}

std::string lower(std::string text) {
  for (char& c : text) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  }
  return text;
}

bool has_extension(const fs::path& path, const std::vector<std::string>& extensions) {
  const std::string name = lower(path.filename().string());
  return extensions.empty() || std::any_of(extensions.begin(), extensions.end(), [&name](const std::string& extension) {
           const std::string dotted = lower(extension.starts_with('.') ? extension : '.' + extension);
           return name.ends_with(dotted);
         });
}

// Adds one file to the list, or counts why not.
void add_file(const fs::path& path, const std::string& name, TextFileList& list) {
  const MappedFile file(path);
  const std::string_view text = view(file);
  TextFile found = {path, name, TextEncoding::utf8, 0, text.size()};
  if (text.starts_with("\xEF\xBB\xBF")) {
    found.begin = 3;
  } else if (text.starts_with("\xFF\xFE") && !text.starts_with(std::string_view("\xFF\xFE\0\0", 4))) {
    found.encoding = TextEncoding::utf16_little;
    found.begin = 2;
  } else if (text.starts_with("\xFE\xFF")) {
    found.encoding = TextEncoding::utf16_big;
    found.begin = 2;
  }
  if (found.begin == found.end) {
    ++list.empty;
  } else if (found.encoding == TextEncoding::utf8 && text.substr(0, kSniffBytes).find('\0') != std::string_view::npos) {
    ++list.binary;
  } else {
    list.files.push_back(std::move(found));
  }
}

class Walk {
 public:
  Walk(const TextFolderOptions& options, TextFileList& list) : options_(options), list_(list) {}

  void folder(const fs::path& path, const std::string& prefix) {
    struct stat status = {};
    if (stat(path.c_str(), &status) != 0 || !visited_.insert({status.st_dev, status.st_ino}).second) {
      ++list_.links;
      return;
    }
    std::vector<fs::path> entries;
    std::error_code error;
    for (fs::directory_iterator entry(path, error), end; !error && entry != end; entry.increment(error)) {
      entries.push_back(entry->path());
    }
    if (error) fail(ExitCode::input, path.string(), "the folder must be readable", error.message());
    std::sort(entries.begin(), entries.end());
    for (const fs::path& entry : entries) add(entry, prefix + entry.filename().string());
  }

 private:
  void add(const fs::path& path, const std::string& name) {
    if (path.filename().string().starts_with('.')) {
      ++list_.hidden;
      return;
    }
    std::error_code error;
    const fs::file_status status = fs::status(path, error);
    if (fs::is_directory(status)) {
      folder(path, name + "/");
    } else if (!fs::is_regular_file(status)) {
      ++list_.links;
    } else if (!has_extension(path, options_.extensions)) {
      ++list_.other_extension;
    } else {
      add_file(path, name, list_);
    }
  }

  const TextFolderOptions& options_;
  TextFileList& list_;
  std::set<std::pair<dev_t, ino_t>> visited_;
};

// Where the block that should end at `wanted` ends: behind a line end, a space or at least a whole character.
uint64_t block_end(std::string_view text, const TextFile& file, uint64_t begin, uint64_t wanted) {
  if (wanted >= file.end) return file.end;
  if (file.encoding != TextEncoding::utf8) {
    const size_t low = file.encoding == TextEncoding::utf16_little ? 0 : 1;
    const uint64_t limit = begin + (wanted - begin) / 2 * 2;
    for (uint64_t end = limit; end > begin; end -= 2) {
      if (text[end - 2 + low] == '\n' && text[end - 1 - low] == '\0') return end;
    }
    const bool splits_pair = (text[limit - 1 - low] & 0xFC) == static_cast<char>(0xD8 & 0xFC);
    return splits_pair && limit - begin > 2 ? limit - 2 : limit;
  }
  for (const char stop : {'\n', ' '}) {
    const size_t found = text.substr(begin, wanted - begin).rfind(stop);
    if (found != std::string_view::npos) return begin + found + 1;
  }
  uint64_t end = wanted;
  while (end > begin + 1 && wanted - end < 4 && (text[end] & 0xC0) == 0x80) --end;
  return end;
}

// The file at `index` of the list becomes its blocks.
void cut_into_blocks(TextFileList& list, size_t index) {
  const TextFile file = list.files[index];
  const MappedFile mapped(file.path);
  const std::string_view text = view(mapped);
  if (text.size() != file.end) fail(ExitCode::input, file.path.string(), "the file must stay as it is", "a change");
  const uint64_t size = std::clamp<uint64_t>((file.end - file.begin) / 16, 1024, kBlockBytes);
  std::vector<TextFile> blocks;
  for (uint64_t begin = file.begin; begin < file.end;) {
    TextFile block = file;
    block.name += fmt::format("#{:08}", blocks.size());
    block.block = true;
    block.begin = begin;
    block.end = begin = block_end(text, file, begin, begin + size);
    blocks.push_back(std::move(block));
  }
  list.files.erase(list.files.begin() + static_cast<std::ptrdiff_t>(index));
  list.files.insert(list.files.begin() + static_cast<std::ptrdiff_t>(index), blocks.begin(), blocks.end());
}

// A read-me beside one large file must not become the validation text.
void cut_dominant_file(TextFileList& list) {
  const auto size = [](const TextFile& file) { return file.end - file.begin; };
  uint64_t total = 0;
  size_t largest = 0;
  for (size_t i = 0; i < list.files.size(); ++i) {
    total += size(list.files[i]);
    if (size(list.files[i]) > size(list.files[largest])) largest = i;
  }
  const uint64_t most = size(list.files[largest]);
  if (list.files.size() == 1 || (most >= kBlockBytes && most > total - most)) cut_into_blocks(list, largest);
}

class Decoder {
 public:
  Decoder(const TextFile& file, const TextFolderOptions& options) : file_(file), options_(options) {}

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

std::string_view bytes_of(const MappedFile& mapped, const TextFile& file) {
  const std::string_view text = view(mapped);
  if (text.size() < file.end) fail(ExitCode::input, file.path.string(), "the file must stay as it is", "a shorter one");
  return text.substr(file.begin, file.end - file.begin);
}

}  // namespace

void TextFolderOptions::fields(ConfigFields& f) {
  f.field("extensions", extensions, "extensions of the files to read, such as \".py\"; empty: every text file");
  f.choice("encoding_errors", encoding_errors, "what becomes of invalid bytes: U+FFFD, or the file is refused",
           {"replace", "error"});
  f.field("validation_share", validation_share, "share of the files that are held out for validation",
          {.minimum = 0, .maximum = 0.9});
  f.field("split_seed", split_seed, "seed that decides which files are held out", {.minimum = 0});
}

TextFileList list_text_files(const fs::path& path, const TextFolderOptions& options) {
  std::error_code error;
  const fs::file_status status = fs::status(path, error);
  if (!fs::exists(status)) fail(ExitCode::input, path.string(), "the data must be a folder or a file", error.message());
  TextFileList list;
  const bool folder = fs::is_directory(status);
  if (folder) {
    Walk(options, list).folder(path, "");
    std::sort(list.files.begin(), list.files.end(),
              [](const TextFile& a, const TextFile& b) { return a.name < b.name; });
  } else {
    add_file(path, path.filename().string(), list);
  }
  if (list.files.empty()) {
    fail(ExitCode::input, path.string(),
         options.extensions.empty() || !folder
             ? std::string("the data must hold text")
             : fmt::format("the data must hold text in files that end in {}", fmt::join(options.extensions, ", ")),
         fmt::format("{} binary, {} empty, {} hidden and {} other files", list.binary, list.empty, list.hidden,
                     list.other_extension + list.links));
  }
  cut_dominant_file(list);
  return list;
}

std::string read_text(const TextFile& file, const TextFolderOptions& options, int64_t* replaced) {
  const MappedFile mapped(file.path);
  const std::string_view bytes = bytes_of(mapped, file);
  Decoder decoder(file, options);
  if (file.encoding == TextEncoding::utf8) {
    decoder.utf8(bytes);
  } else {
    decoder.utf16(bytes, file.encoding == TextEncoding::utf16_little ? 0 : 1);
  }
  if (replaced != nullptr) *replaced = decoder.replaced;
  return std::move(decoder.text);
}

TextSplit split_text_files(const TextFileList& list, const TextFolderOptions& options) {
  struct Ranked {
    std::array<uint64_t, 2> hash;
    const TextFile* file;
  };
  TextSplit split;
  std::vector<Ranked> kept;
  std::set<std::array<uint64_t, 2>> seen;
  std::string all;  // 24 bytes and a name for each file
  for (const TextFile& file : list.files) {
    const MappedFile mapped(file.path);
    const std::string_view bytes = bytes_of(mapped, file);
    const XXH128_hash_t content = XXH3_128bits(bytes.data(), bytes.size());
    const uint64_t facts[] = {content.high64, content.low64, file.name.size()};
    all.append(reinterpret_cast<const char*>(facts), sizeof(facts)).append(file.name);
    if (!seen.insert({content.high64, content.low64}).second && !file.block) {
      ++split.duplicates;
      continue;
    }
    const auto rank =
        XXH3_128bits_withSeed(file.name.data(), file.name.size(), static_cast<uint64_t>(options.split_seed));
    kept.push_back({{rank.high64, rank.low64}, &file});
  }
  const XXH128_hash_t sum = XXH3_128bits(all.data(), all.size());
  split.content = {sum.high64, sum.low64};
  if (kept.size() < 2) {
    fail(
        ExitCode::input, list.files.front().path.string(),
        "the data must hold two text files that differ, or one of more than 1 KiB, to train on and to validate with",
        split.duplicates > 0 ? fmt::format("one and {} copies", split.duplicates) : std::string("one that is shorter"));
  }
  const auto by_hash = [](const Ranked& a, const Ranked& b) { return a.hash < b.hash; };
  const TextFile* first = std::min_element(kept.begin(), kept.end(), by_hash)->file;
  const TextFile* last = std::max_element(kept.begin(), kept.end(), by_hash)->file;
  for (const Ranked& ranked : kept) {
    const bool below = static_cast<double>(ranked.hash[0]) * 0x1p-64 < options.validation_share;
    const bool validation = ranked.file == first || (below && ranked.file != last);
    (validation ? split.validation : split.train).push_back(*ranked.file);
  }
  return split;
}

}  // namespace loci
