#include "loci/data/video/clip_folder.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cerrno>
#include <map>
#include <utility>

#include "loci/base/check.h"
#include "loci/base/config.h"
#include "loci/base/paths.h"
#include "loci/data/class_names.h"
#include "loci/data/folder_files.h"
#include "loci/data/image/image_folder.h"

namespace loci {
namespace {

using FramesOfClip = std::map<std::string, std::vector<ImageSource>>;
using ClipsOfClass = std::map<std::string, FramesOfClip>;

struct ListedClips {
  ClipsOfClass train, test;
  CountedNames other;  // files that are not a frame of a clip
  CountedNames hidden, links;
};

bool is_digit(char c) {
  return c >= '0' && c <= '9';
}

// The digits from `at` on, without leading zeros; `at` then stands behind them.
std::string_view number_at(std::string_view text, size_t& at) {
  size_t begin = at;
  while (at < text.size() && is_digit(text[at])) ++at;
  while (begin + 1 < at && text[begin] == '0') ++begin;
  return text.substr(begin, at - begin);
}

void check_clip_folder(const std::filesystem::path& folder) {
  const PathKind kind = kind_of(folder);
  if (kind == PathKind::nothing) fail_path(folder, "the clips must be a folder", ENOENT);
  if (kind != PathKind::folder) fail(ExitCode::input, folder.string(), "the clips must be a folder", "a file");
}

std::string frame_endings() {
  return fmt::format("{}", fmt::join(image_extensions(), ", "));
}

void sort_frames(std::vector<ImageSource>& frames) {
  std::ranges::sort(frames, [](const ImageSource& a, const ImageSource& b) { return frame_before(a.name, b.name); });
}

// PART/CLASS/CLIP/FRAME; anything else is another file.
ListedClips list_clips(const std::filesystem::path& folder) {
  FolderFiles found = folder_files(folder);
  ListedClips list;
  list.hidden = std::move(found.hidden);
  list.links = std::move(found.links);
  for (FolderFiles::File& file : found.files) {
    std::vector<std::string> parts;
    for (const auto& part : std::filesystem::path(file.name)) parts.push_back(part.string());
    const bool train = parts[0] == kTrainPart;
    if (parts.size() != 4 || (!train && parts[0] != kTestPart) || !has_extension(file.path, image_extensions())) {
      list.other.add(file.name);
      continue;
    }
    (train ? list.train : list.test)[parts[1]][parts[2]].push_back({std::move(file.path), file.name});
  }
  return list;
}

// Folders that are meant as classes and clips but hold none; hidden ones are left out, as everywhere.
void refuse_empty_clips(const std::filesystem::path& part, const ClipsOfClass& classes) {
  const auto folders_in = [](const std::filesystem::path& folder) {
    std::vector<std::filesystem::path> folders = entries_of(folder);
    std::erase_if(folders, [](const std::filesystem::path& entry) {
      return entry.filename().string().starts_with('.') || kind_of(entry) != PathKind::folder;
    });
    return folders;
  };
  for (const std::filesystem::path& of_class : folders_in(part)) {
    const auto found = classes.find(of_class.filename().string());
    for (const std::filesystem::path& clip : folders_in(of_class)) {
      if (found != classes.end() && found->second.contains(clip.filename().string())) continue;
      fail(ExitCode::input, clip.string(), fmt::format("a clip must hold frames ({})", frame_endings()), "none");
    }
    if (found != classes.end()) continue;
    fail(ExitCode::input, of_class.string(), "a class must hold clips, which are folders of frames", "none");
  }
}

std::vector<std::string> classes_of(const ClipsOfClass& part) {
  std::vector<std::string> names;
  for (const auto& [name, clips] : part) names.push_back(name);
  return names;
}

void check_clip_parts(const std::filesystem::path& folder, const ListedClips& list) {
  if (list.train.empty() && list.test.empty()) {
    fail(ExitCode::input, folder.string(),
         fmt::format("the folder must hold train/CLASS/CLIP and test/CLASS/CLIP with frames ({})", frame_endings()),
         fmt::format("{} hidden and {} other files", list.hidden.count, list.other.count + list.links.count));
  }
  for (const std::string_view part : {kTrainPart, kTestPart}) {
    const std::filesystem::path path = folder / part;
    if (kind_of(path) == PathKind::folder) refuse_empty_clips(path, part == kTrainPart ? list.train : list.test);
  }
  check_same_classes(folder, classes_of(list.train), classes_of(list.test), "clips");
}

// Adds a clip whose frames are in order, and its frames to those that are to be loaded.
void add_clip(LabelledClips& result, std::vector<ImageSource>& sources, const std::string& name,
              std::vector<ImageSource> frames, int64_t label) {
  sort_frames(frames);
  result.clips.push_back({name, std::ssize(sources), std::ssize(frames), label});
  std::move(frames.begin(), frames.end(), std::back_inserter(sources));
}

LabelledClips load_clip_part(std::string_view name, ClipsOfClass& part, ImageLoader& loader) {
  LabelledClips result;
  std::vector<ImageSource> sources;
  int64_t label = 0;
  for (auto& [of_class, clips] : part) {
    for (auto& [clip, frames] : clips) {
      add_clip(result, sources, fmt::format("{}/{}/{}", name, of_class, clip), std::move(frames), label);
    }
    ++label;
  }
  result.frames = loader.load(std::move(sources));
  return result;
}

}  // namespace

bool frame_before(std::string_view a, std::string_view b) {
  size_t i = 0, j = 0;
  while (i < a.size() && j < b.size()) {
    if (is_digit(a[i]) && is_digit(b[j])) {
      const std::string_view x = number_at(a, i), y = number_at(b, j);
      if (x.size() != y.size()) return x.size() < y.size();
      if (x != y) return x < y;
    } else if (a[i] != b[j]) {
      return a[i] < b[j];
    } else {
      ++i, ++j;
    }
  }
  const bool a_ended = i == a.size(), b_ended = j == b.size();
  return a_ended != b_ended ? a_ended : a < b;
}

ClipClasses load_clip_folder(const std::filesystem::path& folder, const ImageOptions& options, ProgressLine& progress) {
  check_clip_folder(folder);
  ListedClips list = list_clips(folder);
  check_clip_parts(folder, list);
  ClipClasses result;
  result.classes = classes_of(list.train);
  ImageLoader loader(options, progress);
  result.train = load_clip_part(kTrainPart, list.train, loader);
  result.test = load_clip_part(kTestPart, list.test, loader);
  result.inventory = {Config::write(without_limits(options)), loader.files()};
  std::ranges::sort(result.inventory.files, {}, &FileInventory::File::name);
  for (const auto& [names, what] : {std::pair(&list.other, "no frame of a clip"), std::pair(&list.hidden, "hidden"),
                                    std::pair(&list.links, "broken link or folder seen before")}) {
    if (names->count == 0) continue;
    result.notices.push_back(fmt::format("left out, {}: {} ({})", what, names->count, names->text()));
  }
  return result;
}

LabelledClips load_clips(const std::filesystem::path& folder, const ImageOptions& options, ProgressLine& progress) {
  check_clip_folder(folder);
  FolderFiles found = folder_files(folder);
  FramesOfClip clips;
  for (FolderFiles::File& file : found.files) {
    if (!has_extension(file.path, image_extensions())) continue;
    const std::string name = std::filesystem::path(file.name).parent_path().string();
    clips[name.empty() ? "." : name].push_back({std::move(file.path), std::move(file.name)});
  }
  if (clips.empty()) {
    fail(ExitCode::input, folder.string(), fmt::format("the folder must hold clips of frames ({})", frame_endings()),
         fmt::format("{} other files", found.files.size()));
  }
  LabelledClips result;
  std::vector<ImageSource> sources;
  for (auto& [name, frames] : clips) add_clip(result, sources, name, std::move(frames), 0);
  result.frames = ImageLoader(options, progress).load(std::move(sources));
  return result;
}

}  // namespace loci
