#include "loci/train/checkpoint_folder.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <system_error>
#include <utility>
#include <vector>

#include "loci/base/check.h"
#include "loci/base/checksum.h"
#include "loci/base/durable_file.h"
#include "loci/base/mapped_file.h"
#include "loci/base/paths.h"

namespace loci {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view manifest_name = "manifest.json";
constexpr std::string_view format_name = "loci checkpoint 1";
constexpr int64_t manifest_limit = 16 << 20;
constexpr std::string_view step_prefix = "step-";
constexpr std::string_view replaced_suffix = ".replaced";
constexpr size_t sum_size = 32;

std::string sum_of(std::string_view text) {
  return checksum(std::as_bytes(std::span(text.data(), text.size())));
}

void sync_file(const fs::path& path) {
  const int descriptor = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) fail_path(path, "the file must be readable", errno);
  int result = fsync(descriptor);
  while (result != 0 && errno == EINTR) result = fsync(descriptor);
  const int error = errno;
  close(descriptor);
  if (result != 0) fail_path(path, "the file must reach the disk", error);
}

void rename_folder(const fs::path& from, const fs::path& to) {
  if (rename(from.c_str(), to.c_str()) != 0) fail_path(to, "the checkpoint must be movable to its place", errno);
}

// The manifest as text is a JSON object whose last member is the sum of the text before that member.
std::string closing(std::string_view sum) {
  return fmt::format(",\n  \"sum\": \"{}\"\n}}\n", sum);
}

std::string manifest_text(const nlohmann::json& manifest) {
  std::string body = manifest.dump(2, ' ', false, nlohmann::json::error_handler_t::replace);
  body.resize(body.size() - 2);  // "\n}"
  return body + closing(sum_of(body));
}

nlohmann::json read_manifest(const fs::path& path) {
  std::error_code error;
  const auto size = fs::file_size(path, error);
  if (error) fail_path(path, "a checkpoint must have a manifest", error.value());
  if (static_cast<int64_t>(size) > manifest_limit) {
    fail(ExitCode::input, path.string(), fmt::format("the manifest must be at most {} bytes", manifest_limit),
         fmt::format("{}", size));
  }
  const std::string text = read_text_file(path);
  const size_t tail = closing(std::string(sum_size, '0')).size();
  const std::string body = text.substr(0, text.size() - std::min(tail, text.size()));
  if (text.size() <= tail || text.substr(body.size()) != closing(sum_of(body))) {
    fail(ExitCode::input, path.string(), "the manifest must be whole, ending with the sum of its text",
         text.size() <= tail ? fmt::format("{} bytes", text.size()) : "another end or sum");
  }
  const nlohmann::json manifest = nlohmann::json::parse(text, nullptr, false);
  const auto format = manifest.is_object() ? manifest.find("format") : manifest.end();
  if (!manifest.is_object() || format == manifest.end() || *format != format_name) {
    fail(ExitCode::input, path.string(), fmt::format("the manifest must be of a {}", format_name),
         manifest.is_object() && format != manifest.end() ? format->dump() : "another JSON");
  }
  return manifest;
}

// A name that stays in the checkpoint's folder.
bool is_plain_name(const std::string& name) {
  return !name.empty() && name != "." && name != ".." && name.find('/') == std::string::npos &&
         name.find('\0') == std::string::npos && name != manifest_name;
}

void check_file(const fs::path& path, const nlohmann::json& facts, int64_t sum_limit) {
  const MappedFile file(path);
  const auto size = static_cast<int64_t>(file.bytes().size());
  const auto expected = facts.at("bytes").get<int64_t>();
  if (size != expected) {
    fail(ExitCode::input, path.string(), fmt::format("the file must have the {} bytes of the manifest", expected),
         fmt::format("{}", size));
  }
  if (size > sum_limit) return;
  const std::string sum = checksum(file);
  if (sum != facts.at("xxh3_128").get<std::string>()) {
    fail(ExitCode::input, path.string(),
         fmt::format("the file must have the sum {} of the manifest", facts.at("xxh3_128").get<std::string>()), sum);
  }
}

struct StepFolder {
  int64_t step;
  fs::path path;
};

// The step-N folders of a run, newest first.
std::vector<StepFolder> step_folders(const fs::path& run) {
  std::vector<StepFolder> folders;
  for (const fs::path& path : entries_of(run)) {
    const std::string name = path.filename().string();
    int64_t step = 0;
    const char* end = name.data() + name.size();
    std::error_code ignored;
    if (!name.starts_with(step_prefix) || !fs::is_directory(path, ignored)) continue;
    const auto [rest, failure] = std::from_chars(name.data() + step_prefix.size(), end, step);
    if (failure == std::errc() && rest == end && fmt::format("{}{}", step_prefix, step) == name) {
      folders.push_back({step, path});
    }
  }
  std::sort(folders.begin(), folders.end(), [](const auto& a, const auto& b) { return a.step > b.step; });
  return folders;
}

// Hidden first, so that a kill half-way leaves no step-N folder with some files missing.
void remove_checkpoint(const fs::path& folder) {
  const fs::path hidden =
      folder.parent_path() / fmt::format(".{}.tmp-{}", folder.filename().string(), static_cast<int64_t>(getpid()));
  std::error_code ignored;  // what stays is removed at the next start
  fs::rename(folder, hidden, ignored);
  fs::remove_all(hidden, ignored);
}

fs::path make_temporary(const fs::path& run, int64_t step) {
  if (step < 0) fail(ExitCode::bug, "CheckpointWriter", "step must be at least 0", fmt::format("{}", step));
  const fs::path temporary = run / fmt::format(".{}{}.tmp-{}", step_prefix, step, static_cast<int64_t>(getpid()));
  std::error_code error;
  fs::remove_all(temporary, error);
  if (!fs::create_directory(temporary, error)) fail_path(run, "the run directory must be writable", error.value());
  return temporary;
}

}  // namespace

CheckpointPart::CheckpointPart(fs::path temporary) : temporary_(std::move(temporary)) {
  const PathKind kind = kind_of(temporary_);
  if (kind == PathKind::folder) return;
  fail(ExitCode::usage, temporary_.string(), "the run must be on a file system that all processes see",
       kind == PathKind::nothing ? "no such folder" : "no folder");
}

fs::path CheckpointPart::file(const std::string& name) {
  named_.insert(name);
  return temporary_ / name;
}

bool CheckpointPart::link(const CheckpointFiles& from, const std::vector<std::string>& names) {
  std::error_code error;
  const nlohmann::json& facts = from.manifest.at("files");
  for (const std::string& name : names) {
    const auto size = fs::file_size(from.folder / name, error);
    if (error || !facts.contains(name) || facts[name].at("bytes") != size) return false;
  }
  for (const std::string& name : names) {
    fs::create_hard_link(from.folder / name, file(name), error);
    if (error) copy_file_durably(from.folder / name, file(name));  // another disk, or one without hard links
    linked_[name] = facts[name];
  }
  return true;
}

// Those that were linked were synced and summed when they were written.
nlohmann::json CheckpointPart::sync() {
  nlohmann::json files = linked_;
  for (const std::string& name : named_) {
    const fs::path path = temporary_ / name;
    if (!path_exists(path)) continue;
    sync_file(path);
    if (files.contains(name)) continue;
    const MappedFile file(path);
    files[name] = {{"bytes", file.bytes().size()}, {"xxh3_128", checksum(file)}};
  }
  return files;
}

CheckpointWriter::CheckpointWriter(fs::path run, int64_t step)
    : CheckpointPart(make_temporary(run, step)), run_(std::move(run)), step_(step) {}

CheckpointWriter::~CheckpointWriter() {
  std::error_code ignored;
  if (!temporary_.empty()) fs::remove_all(temporary_, ignored);
}

void CheckpointWriter::add(const nlohmann::json& files) {
  for (const auto& [name, facts] : files.items()) {
    const fs::path path = temporary_ / name;
    const int64_t bytes = file_bytes(path), written = facts.at("bytes").get<int64_t>();
    if (bytes != written) {
      fail(ExitCode::input, path.string(), fmt::format("the file must have the {} bytes that were written", written),
           fmt::to_string(bytes));
    }
    if (added_.contains(name)) fail(ExitCode::bug, path.string(), "one process must write a file", "two");
    added_[name] = facts;
  }
}

CheckpointFiles CheckpointWriter::finish(const nlohmann::json& extra, int64_t keep_last) {
  nlohmann::json manifest = {{"format", format_name}, {"step", step_}, {"files", sync()}};
  manifest["files"].update(added_);
  for (const auto& [key, value] : extra.items()) {
    if (manifest.contains(key) || key == "sum") {
      fail(ExitCode::bug, "CheckpointWriter", "extra members must have other names than the manifest's", key);
    }
    manifest[key] = value;
  }
  write_file_durably(temporary_ / manifest_name, manifest_text(manifest));

  // A step that is there already was found damaged, or the run went back: it steps aside and can step back.
  const fs::path place = run_ / fmt::format("{}{}", step_prefix, step_);
  const fs::path replaced = run_ / fmt::format(".{}{}{}", step_prefix, step_, replaced_suffix);
  const bool replaces = path_exists(place);
  std::error_code ignored;
  fs::remove_all(replaced, ignored);
  if (replaces) rename_folder(place, replaced);
  rename_folder(temporary_, place);
  temporary_.clear();
  sync_folder(run_);
  if (replaces) fs::remove_all(replaced, ignored);
  write_file_durably(run_ / "latest", place.filename().string() + "\n");

  int64_t kept = 0;
  for (const StepFolder& folder : step_folders(run_)) {
    if (folder.step <= step_ && ++kept > keep_last && keep_last > 0) remove_checkpoint(folder.path);
  }
  return {place, std::move(manifest)};
}

CheckpointReader::CheckpointReader(fs::path folder, int64_t sum_limit) : folder_(std::move(folder)) {
  const fs::path path = folder_ / manifest_name;
  manifest_ = read_manifest(path);
  read("the manifest must hold step and files with bytes and xxh3_128", [&](const nlohmann::json& manifest) {
    const nlohmann::json& step = manifest.at("step");
    step_ = step.is_number_integer() ? step.get<int64_t>() : -1;
    if (step_ < 0) refuse_manifest("the step must be a whole number from 0 on", step.dump());
    for (const auto& [name, facts] : manifest.at("files").get_ref<const nlohmann::json::object_t&>()) {
      if (!is_plain_name(name)) {
        fail(ExitCode::input, path.string(), "names of files must stay in the folder", nlohmann::json(name).dump());
      }
      check_file(folder_ / name, facts, sum_limit);
    }
  });
}

void CheckpointReader::refuse_manifest(std::string_view expected, std::string_view reason) const {
  fail(ExitCode::input, (folder_ / manifest_name).string(), expected, reason);
}

bool CheckpointReader::has(std::string_view name) const {
  return manifest_.at("files").contains(std::string(name));
}

fs::path CheckpointReader::file(std::string_view name) const {
  if (!has(name)) fail(ExitCode::input, folder_.string(), fmt::format("the checkpoint must hold {}", name), "none");
  return folder_ / name;
}

std::optional<fs::path> newest_step_folder(const fs::path& run) {
  const std::vector<StepFolder> folders = step_folders(run);
  if (folders.empty()) return std::nullopt;
  return folders.front().path;
}

CheckpointReader open_latest(const fs::path& run, const std::function<void(const std::string&)>& notice,
                             int64_t sum_limit) {
  const std::vector<StepFolder> folders = step_folders(run);
  std::string newest;
  for (const StepFolder& folder : folders) {
    try {
      return CheckpointReader(folder.path, sum_limit);
    } catch (const Error& error) {
      if (newest.empty()) newest = error.what();
      if (notice) notice(fmt::format("{} is damaged and left out: {}", folder.path.string(), error.what()));
    }
  }
  if (folders.empty()) fail(ExitCode::input, run.string(), "the run must have a complete checkpoint", "none");
  throw Error(ExitCode::input, newest);
}

void remove_leftovers(const fs::path& run) {
  std::vector<fs::path> leftovers;
  for (const fs::path& path : entries_of(run)) {
    const std::string name = path.filename().string();
    if (name.starts_with(".") && name.find(".tmp-") != std::string::npos) leftovers.push_back(path);
    if (!name.starts_with(fmt::format(".{}", step_prefix)) || !name.ends_with(replaced_suffix)) continue;
    const fs::path place = run / name.substr(1, name.size() - 1 - replaced_suffix.size());
    if (path_exists(place)) {
      leftovers.push_back(path);
    } else {
      rename_folder(path, place);
    }
  }
  for (const fs::path& path : leftovers) {
    std::error_code error;
    fs::remove_all(path, error);
    if (error) fail_path(path, "what a killed process left must be removable", error.value());
  }
}

}  // namespace loci
