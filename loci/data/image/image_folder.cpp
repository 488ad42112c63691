#include "loci/data/image/image_folder.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cerrno>
#include <map>
#include <string_view>
#include <utility>

#include "loci/base/check.h"
#include "loci/base/config.h"
#include "loci/base/paths.h"
#include "loci/data/class_names.h"
#include "loci/data/folder_files.h"
#include "loci/data/held_out.h"
#include "loci/data/image/idx_file.h"

namespace loci {
namespace {

using ImagesOfClass = std::map<std::string, std::vector<ImageSource>>;  // both by name

struct ClassSplit {
  ImagesOfClass train, test;
};

// "a/b/c" -> "a", "b/c"; "c" -> "", "c".
std::pair<std::string, std::string> first_folder(const std::string& name) {
  const size_t end = name.find('/');
  if (end == std::string::npos) return {"", name};
  return {name.substr(0, end), name.substr(end + 1)};
}

struct ListedImages {
  ImagesOfClass all;   // of the folder as CLASS/IMAGE
  ClassSplit split;    // of the folder as train/CLASS/IMAGE and test/CLASS/IMAGE
  CountedNames other;  // files that are not an image of a class
  CountedNames hidden, links;
};

ListedImages list_images(const std::filesystem::path& folder) {
  FolderFiles found = folder_files(folder);
  ListedImages list;
  list.hidden = std::move(found.hidden);
  list.links = std::move(found.links);
  for (FolderFiles::File& file : found.files) {
    if (!has_extension(file.path, image_extensions())) {
      list.other.add(file.name);
      continue;
    }
    const ImageSource source = {std::move(file.path), file.name};
    const auto [top, rest] = first_folder(file.name);
    list.all[top].push_back(source);
    const std::string below = first_folder(rest).first;
    if (below.empty()) continue;
    if (top == kTrainPart) list.split.train[below].push_back(source);
    if (top == kTestPart) list.split.test[below].push_back(source);
  }
  return list;
}

std::vector<std::string> names_of(const ImagesOfClass& part) {
  std::vector<std::string> names;
  for (const auto& [name, images] : part) names.push_back(name);
  return names;
}

ClassSplit split_by_share(const std::filesystem::path& folder, const ImagesOfClass& all,
                          const ImageFolderOptions& options) {
  ClassSplit split;
  for (const auto& [name, images] : all) {
    if (images.size() < 2) {
      fail(ExitCode::input, (folder / name).string(), "a class must hold two images, to train on and to test with",
           "one");
    }
    std::vector<std::string> names;
    for (const ImageSource& image : images) names.push_back(image.name);
    const std::vector<bool> held = held_out(names, options.test_share, options.split_seed);
    for (size_t i = 0; i < images.size(); ++i) (held[i] ? split.test : split.train)[name].push_back(images[i]);
  }
  return split;
}

ClassSplit split_images(const std::filesystem::path& folder, ListedImages& list, const ImageFolderOptions& options) {
  const bool train = !list.split.train.empty(), test = !list.split.test.empty();
  if (train && test) {
    check_same_classes(folder, names_of(list.split.train), names_of(list.split.test), "images");
    for (const auto& [top, images] : list.all) {
      for (const ImageSource& image : images) {
        const bool part = top == kTrainPart || top == kTestPart;
        if (!part || first_folder(first_folder(image.name).second).first.empty()) list.other.add(image.name);
      }
    }
    return std::move(list.split);
  }
  if (train || test) {
    fail(ExitCode::input, folder.string(), "the folder must hold train/CLASS and test/CLASS, or CLASS alone",
         fmt::format("images of classes in {} alone", train ? kTrainPart : kTestPart));
  }
  if (const auto outside = list.all.find(""); outside != list.all.end()) {
    for (const ImageSource& image : outside->second) list.other.add(image.name);
    list.all.erase(outside);
  }
  if (list.all.empty()) {
    fail(ExitCode::input, folder.string(),
         fmt::format("the folder must hold images in class folders ({})", fmt::join(image_extensions(), ", ")),
         fmt::format("{} hidden and {} other files", list.hidden.count, list.other.count + list.links.count));
  }
  return split_by_share(folder, list.all, options);
}

LabelledImages load_part(const ImagesOfClass& part, ImageLoader& loader) {
  LabelledImages result;
  std::vector<ImageSource> sources;
  int64_t label = 0;
  for (const auto& [name, images] : part) {
    sources.insert(sources.end(), images.begin(), images.end());
    result.labels.resize(sources.size(), label++);
  }
  result.images = loader.load(std::move(sources));
  return result;
}

}  // namespace

void ImageFolderOptions::fields(ConfigFields& f) {
  image.fields(f);
  f.field("test_share", test_share, "share of each class that is held out, in a folder without train and test",
          {.minimum = 0, .maximum = 0.9});
  f.field("split_seed", split_seed, "seed that decides which images are held out", {.minimum = 0});
}

const std::vector<std::string>& image_extensions() {
  static const std::vector<std::string> extensions = {".jpg", ".jpeg", ".png"};
  return extensions;
}

std::string image_settings(ImageFolderOptions options) {
  options.image = without_limits(options.image);
  return Config::write(options);
}

ImageClasses load_image_folder(const std::filesystem::path& folder, const ImageFolderOptions& options,
                               ProgressLine& progress) {
  const PathKind kind = kind_of(folder);
  if (kind == PathKind::nothing) fail_path(folder, "the images must be a folder", ENOENT);
  if (kind != PathKind::folder) fail(ExitCode::input, folder.string(), "the images must be a folder", "a file");
  if (is_idx_folder(folder)) return load_idx_folder(folder, options);
  ListedImages list = list_images(folder);
  const ClassSplit split = split_images(folder, list, options);
  ImageClasses result;
  result.classes = names_of(split.train);
  ImageLoader loader(options.image, progress);
  result.train = load_part(split.train, loader);
  result.test = load_part(split.test, loader);
  result.inventory = {image_settings(options), loader.files()};
  std::ranges::sort(result.inventory.files, {}, &FileInventory::File::name);
  for (const auto& [names, what] : {std::pair(&list.other, "no image of a class"), std::pair(&list.hidden, "hidden"),
                                    std::pair(&list.links, "broken link or folder seen before")}) {
    if (names->count == 0) continue;
    result.notices.push_back(fmt::format("left out, {}: {} ({})", what, names->count, names->text()));
  }
  return result;
}

}  // namespace loci
