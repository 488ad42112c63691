#include "loci/data/image/character_folder.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cerrno>
#include <map>
#include <set>
#include <utility>

#include "loci/base/check.h"
#include "loci/base/config.h"
#include "loci/base/paths.h"
#include "loci/data/folder_files.h"
#include "loci/data/image/image_folder.h"

namespace loci {
namespace {

namespace fs = std::filesystem;

using Drawings = std::vector<ImageSource>;
using Alphabets = std::map<std::string, std::map<std::string, Drawings>>;  // of a set: characters by alphabet

struct LeftOut {
  CountedNames other, hidden, links;
};

std::vector<std::string> names_of(const Alphabets& alphabets) {
  std::vector<std::string> names;
  for (const auto& [name, characters] : alphabets) names.push_back(name);
  return names;
}

std::vector<std::string> entry_names(const fs::path& folder) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder)) names.push_back(entry.path().filename().string());
  std::ranges::sort(names);
  return names;
}

Alphabets read_set(const fs::path& folder, const std::string& set, const std::string& key, LeftOut& left) {
  if (kind_of(folder / set) != PathKind::folder) {
    fail(ExitCode::input, folder.string(), fmt::format("the folder must hold the folder data.{} = \"{}\"", key, set),
         fmt::format("{}", fmt::join(entry_names(folder), ", ")));
  }
  FolderFiles found = folder_files(folder / set);
  Alphabets alphabets;
  for (FolderFiles::File& file : found.files) {
    const size_t first = file.name.find('/'), second = file.name.find('/', first + 1);
    const bool deep = first != std::string::npos && second != std::string::npos;
    if (!deep || file.name.find('/', second + 1) != std::string::npos ||
        !has_extension(file.path, image_extensions())) {
      left.other.add(set + "/" + file.name);
      continue;
    }
    alphabets[file.name.substr(0, first)][file.name.substr(first + 1, second - first - 1)].push_back(
        {std::move(file.path), set + "/" + file.name});
  }
  for (const auto& [from, to] : {std::pair(&found.hidden, &left.hidden), std::pair(&found.links, &left.links)}) {
    for (const std::string& name : from->first) to->add(set + "/" + name);
    to->count += from->count - std::ssize(from->first);
  }
  if (alphabets.empty()) {
    fail(ExitCode::input, (folder / set).string(),
         fmt::format("the folder must hold ALPHABET/CHARACTER/DRAWING ({})", fmt::join(image_extensions(), ", ")),
         fmt::format("{} other files", found.files.size()));
  }
  return alphabets;
}

void hold_out(Alphabets& alphabets, const CharacterFolderOptions& options) {
  const auto all = names_of(alphabets);
  for (const std::string& name : options.held_out) {
    if (alphabets.erase(name) == 1) continue;
    fail(ExitCode::usage, "data.held_out",
         fmt::format("it must name alphabets of {}, each once ({})", options.train_set, fmt::join(all, ", ")), name);
  }
  if (!alphabets.empty()) return;
  fail(ExitCode::usage, "data.held_out", "it must leave an alphabet to train on",
       fmt::format("all of {}", fmt::join(all, ", ")));
}

CharacterDrawings load_set(const std::string& set, const Alphabets& alphabets, ImageLoader& loader) {
  CharacterDrawings result;
  Drawings sources;
  for (const auto& [alphabet, characters] : alphabets) {
    for (const auto& [name, drawings] : characters) {
      result.characters.push_back(
          {fmt::format("{}/{}/{}", set, alphabet, name), std::ssize(sources), std::ssize(drawings)});
      sources.insert(sources.end(), drawings.begin(), drawings.end());
    }
  }
  result.images = loader.load(std::move(sources));
  return result;
}

}  // namespace

CharacterFolderOptions::CharacterFolderOptions() {
  image.color = ImageColor::grey;
  image.size = {28, 28};
}

void CharacterFolderOptions::fields(ConfigFields& f) {
  image.fields(f);
  f.field("train_set", train_set, "folder of alphabets that are trained on");
  f.field("test_set", test_set, "folder of alphabets that are tested, but for those that are trained on");
  f.field("held_out", held_out, "alphabets of train_set that are not trained on");
}

std::string character_settings(CharacterFolderOptions options) {
  options.image = without_limits(options.image);
  return Config::write(options);
}

CharacterSets load_characters(const fs::path& folder, const CharacterFolderOptions& options, ProgressLine& progress) {
  const PathKind kind = kind_of(folder);
  if (kind == PathKind::nothing) fail_path(folder, "the drawings must be a folder", ENOENT);
  if (kind != PathKind::folder) fail(ExitCode::input, folder.string(), "the drawings must be a folder", "a file");
  LeftOut left, again;
  Alphabets train = read_set(folder, options.train_set, "train_set", left);
  const bool one_set = options.test_set == options.train_set;
  Alphabets test = read_set(folder, options.test_set, "test_set", one_set ? again : left);
  hold_out(train, options);
  CharacterSets result;
  std::vector<std::string> both;
  for (const std::string& name : names_of(train)) {
    if (test.erase(name) == 1) both.push_back(name);
  }
  if (test.empty()) {
    fail(ExitCode::input, (folder / options.test_set).string(),
         "the test must have an alphabet that is not trained on (data.held_out keeps some of train_set for it)",
         fmt::format("{} alone", fmt::join(both, ", ")));
  }
  if (!one_set && !both.empty()) {
    result.notices.push_back(fmt::format("left out of the test: {} (trained on)", fmt::join(both, ", ")));
  }
  ImageLoader loader(options.image, progress);
  result.train = load_set(options.train_set, train, loader);
  result.test = load_set(options.test_set, test, loader);
  result.inventory = {character_settings(options), loader.files()};
  for (const auto& [names, what] : {std::pair(&left.other, "files that are no drawing of a character"),
                                    std::pair(&left.hidden, "hidden"), std::pair(&left.links, "links to nowhere")}) {
    if (names->count == 0) continue;
    result.notices.push_back(fmt::format("left out, {}: {} ({})", what, names->count, names->text()));
  }
  return result;
}

}  // namespace loci
