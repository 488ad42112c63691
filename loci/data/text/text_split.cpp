// Training and validation part of a list of text files (text_folder.h).
#include <algorithm>
#include <set>

#include "loci/base/check.h"
#include "loci/base/checksum.h"
#include "loci/base/config.h"
#include "loci/base/stop_signal.h"
#include "loci/data/held_out.h"
#include "loci/data/input_file.h"
#include "loci/data/text/text_folder.h"

namespace loci {
namespace {

constexpr uint64_t kHashedAtOnce = 1 << 20;

// The list again, each file with its checksum; the inventory has the files as a whole.
std::vector<TextFile> with_sums(const TextFileList& list, FileInventory& inventory, ProgressLine& progress) {
  std::vector<TextFile> files = list.files;
  double total = 0;
  double done = 0;
  for (const TextFile& file : files) total += static_cast<double>(file.end - file.begin);
  for (size_t i = 0; i < files.size();) {
    const std::string& name = files[i].file;
    const InputFile input(files[i].path);
    if (input.size() < files[i].end) {
      fail(ExitCode::input, files[i].path.string(), "the file must stay as it is while it is read", "a shorter one");
    }
    Checksum whole;
    FileInventory::File entry = {.name = name};
    for (; i < files.size() && files[i].file == name; ++i) {
      Checksum sum;
      for (uint64_t at = files[i].begin; at < files[i].end; at += kHashedAtOnce) {
        StopSignal::check("stopped while text was read");
        const std::string bytes = input.read(at, std::min(kHashedAtOnce, files[i].end - at));
        sum.add(bytes);
        whole.add(bytes);
        done += static_cast<double>(bytes.size());
        progress.show(fmt::format("text: {} of {} read", format_bytes(done), format_bytes(total)));
      }
      files[i].sum = sum.text();
      entry.bytes += files[i].end - files[i].begin;
    }
    entry.sum = whole.text();
    inventory.files.push_back(std::move(entry));
  }
  return files;
}

}  // namespace

TextSplit split_text_files(const TextFileList& list, const TextFolderOptions& options, ProgressLine& progress) {
  TextSplit split;
  split.inventory.settings = Config::write(options);
  const std::vector<TextFile> files = with_sums(list, split.inventory, progress);
  std::vector<const TextFile*> kept;
  std::vector<std::string> names;
  std::set<std::string_view> seen;
  for (const TextFile& file : files) {
    if (!seen.insert(file.sum).second && !file.block) {
      split.duplicates.add(file.name);
      continue;
    }
    kept.push_back(&file);
    names.push_back(file.name);
  }
  if (kept.size() < 2) {
    fail(ExitCode::input, list.files.front().path.string(),
         "the data must hold two text files that differ, or one of more than 1 KiB, to train on and to validate with",
         split.duplicates.count > 0 ? fmt::format("one and {} copies", split.duplicates.count)
                                    : std::string("one that is shorter"));
  }
  const std::vector<bool> validation = held_out(names, options.validation_share, options.split_seed);
  for (size_t i = 0; i < kept.size(); ++i) (validation[i] ? split.validation : split.train).push_back(*kept[i]);
  return split;
}

}  // namespace loci
