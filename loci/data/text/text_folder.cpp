#include "loci/data/text/text_folder.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <string_view>
#include <utility>

#include "loci/base/check.h"
#include "loci/base/paths.h"
#include "loci/base/utf8.h"
#include "loci/data/folder_files.h"
#include "loci/data/input_file.h"

namespace loci {
namespace {

namespace fs = std::filesystem;

constexpr size_t kSniffBytes = 64 << 10;
constexpr uint64_t kBlockBytes = 64 << 10;

// Adds one file to the list, or counts why not.
void list_text_file(const fs::path& path, const std::string& name, TextFileList& list) {
  const InputFile input(path);
  const std::string text = input.read(0, std::min<uint64_t>(input.size(), kSniffBytes));
  TextFile found = {.path = path, .file = name, .name = name, .end = input.size()};
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
    list.empty.add(name);
  } else if (found.encoding == TextEncoding::utf8 && text.find('\0') != std::string::npos) {
    list.binary.add(name);
  } else {
    list.files.push_back(std::move(found));
  }
}

// How many bytes of `text`, which a block begins with and which goes on in the file, belong to the block: all up to the
// last line end, space or whole character.
size_t block_length(std::string_view text, TextEncoding encoding) {
  if (encoding != TextEncoding::utf8) {
    const size_t low = encoding == TextEncoding::utf16_little ? 0 : 1;
    const size_t limit = text.size() / 2 * 2;
    for (size_t end = limit; end > 0; end -= 2) {
      if (text[end - 2 + low] == '\n' && text[end - 1 - low] == '\0') return end;
    }
    const bool splits_pair = (static_cast<unsigned char>(text[limit - 1 - low]) & 0xFC) == 0xD8;
    return splits_pair && limit > 2 ? limit - 2 : limit;
  }
  for (const char stop : {'\n', ' '}) {
    const size_t found = text.rfind(stop);
    if (found != std::string_view::npos) return found + 1;
  }
  // What would become U+FFFD at the end is the start of a character, or broken anyway.
  for (size_t back = 1; back < std::min<size_t>(4, text.size()); ++back) {
    if (utf8_step(text.substr(text.size() - back)).truncated) return text.size() - back;
  }
  return text.size();
}

// The file at `index` of the list becomes its blocks.
void cut_into_blocks(TextFileList& list, size_t index) {
  const TextFile file = list.files[index];
  const InputFile input(file.path);
  const uint64_t size = std::clamp<uint64_t>((file.end - file.begin) / 16, 1024, kBlockBytes);
  std::vector<TextFile> blocks;
  for (uint64_t begin = file.begin; begin < file.end;) {
    TextFile block = file;
    block.name += fmt::format("#{:08}", blocks.size());
    block.block = true;
    block.begin = begin;
    block.end = file.end;
    if (size < file.end - begin) block.end = begin + block_length(input.read(begin, size), file.encoding);
    begin = block.end;
    blocks.push_back(std::move(block));
  }
  list.files.erase(list.files.begin() + static_cast<std::ptrdiff_t>(index));
  list.files.insert(list.files.begin() + static_cast<std::ptrdiff_t>(index), blocks.begin(), blocks.end());
}

// A read-me next to one large file must not become the validation text.
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
  const PathKind kind = kind_of(path);
  if (kind == PathKind::nothing) fail_path(path, "the data must be a folder or a file", ENOENT);
  const bool folder = kind == PathKind::folder;
  TextFileList list;
  if (folder) {
    FolderFiles found = folder_files(path);
    list.hidden = std::move(found.hidden);
    list.links = std::move(found.links);
    for (const FolderFiles::File& file : found.files) {
      if (has_extension(file.path, options.extensions)) {
        list_text_file(file.path, file.name, list);
      } else {
        list.other_extension.add(file.name);
      }
    }
  } else {
    list_text_file(path, path.filename().string(), list);
  }
  if (list.files.empty()) {
    fail(ExitCode::input, path.string(),
         options.extensions.empty() || !folder
             ? std::string("the data must hold text")
             : fmt::format("the data must hold text in files that end in {}", fmt::join(options.extensions, ", ")),
         fmt::format("{} binary, {} empty, {} hidden and {} other files", list.binary.count, list.empty.count,
                     list.hidden.count, list.other_extension.count + list.links.count));
  }
  cut_dominant_file(list);
  return list;
}

}  // namespace loci
