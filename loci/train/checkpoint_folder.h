// A checkpoint is a folder step-N of a run, complete or absent: its files are written into a hidden folder next to it,
// then manifest.json with the size and XXH3-128 sum of each, then the folder gets its name. Several processes may write
// files of one checkpoint; one of them completes it when the files of all are durable.
//
// The manifest ends with the sum of its own text, so a change of any byte of a checkpoint is found.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

namespace loci {

// A complete checkpoint whose files may go into the next one.
struct CheckpointFiles {
  std::filesystem::path folder;
  nlohmann::json manifest;
};

// What one process writes of a checkpoint: files in the hidden folder that the CheckpointWriter of one of the processes
// has made. The file system must be one that all of them see.
class CheckpointPart {
 public:
  // Throws Error (usage) where that folder is not seen.
  explicit CheckpointPart(std::filesystem::path temporary);
  CheckpointPart(const CheckpointPart&) = delete;
  CheckpointPart& operator=(const CheckpointPart&) = delete;

  const std::filesystem::path& folder() const { return temporary_; }
  // Where to write a file of the checkpoint.
  std::filesystem::path file(const std::string& name);
  // Takes files of an earlier checkpoint as they are: by hard links where the file system has them, else as copies.
  // Their sums are those of its manifest. False, and nothing is taken, when one is gone or has another size.
  bool link(const CheckpointFiles& from, const std::vector<std::string>& names);
  // Makes these files durable. Returns what the manifest says of them, for CheckpointWriter::add().
  nlohmann::json sync();

 protected:
  std::filesystem::path temporary_;

 private:
  nlohmann::json linked_ = nlohmann::json::object();  // facts of files that came by link()
  std::set<std::string> named_;                       // by file()
};

class CheckpointWriter : public CheckpointPart {
 public:
  CheckpointWriter(std::filesystem::path run, int64_t step);
  // Removes what was written unless it was finished.
  ~CheckpointWriter();

  // Takes the files that another process has made durable. Throws Error (input) where one is not here.
  void add(const nlohmann::json& files);
  // Completes the checkpoint: the manifest gets the members of the object `extra` (versions, seed, position), `latest`
  // the folder's name. Then all but the newest `keep_last` checkpoints up to this step are removed; 0 keeps all.
  CheckpointFiles finish(const nlohmann::json& extra, int64_t keep_last);

 private:
  nlohmann::json added_ = nlohmann::json::object();  // facts of files of other processes
  std::filesystem::path run_;
  int64_t step_;
};

class CheckpointReader {
 public:
  // Checks the manifest and each file's size, and the sums of files of at most `sum_limit` bytes. Throws Error (input).
  explicit CheckpointReader(std::filesystem::path folder, int64_t sum_limit = std::numeric_limits<int64_t>::max());

  const std::filesystem::path& path() const { return folder_; }
  int64_t step() const { return step_; }
  const nlohmann::json& manifest() const { return manifest_; }
  // A member of the manifest; `missing` where there is none. Throws Error (input) for another type.
  template <class T>
  T member(const std::string& name, const T& missing) const {
    return read("the manifest's member \"" + name + "\" must be of its type",
                [&](const nlohmann::json& manifest) { return manifest.value(name, missing); });
  }
  // What `read` makes of the manifest. Throws Error (input) that names the manifest where a value is missing or of
  // another type; `expected` reads as a sentence.
  template <class Read>
  auto read(std::string_view expected, Read read) const {
    try {
      return read(manifest_);
    } catch (const nlohmann::json::exception& error) {
      refuse_manifest(expected, error.what());
    }
  }
  bool has(std::string_view name) const;
  // The path of a file that the manifest lists. Throws Error (input) for another.
  std::filesystem::path file(std::string_view name) const;

 private:
  [[noreturn]] void refuse_manifest(std::string_view expected, std::string_view reason) const;

  std::filesystem::path folder_;
  nlohmann::json manifest_;
  int64_t step_ = 0;
};

// The step-N folder with the largest N, unchecked.
std::optional<std::filesystem::path> newest_step_folder(const std::filesystem::path& run);

// The newest checkpoint of a run that is whole; `notice` gets one line for each newer one that is not. Throws Error
// (input) when none is.
CheckpointReader open_latest(const std::filesystem::path& run, const std::function<void(const std::string&)>& notice,
                             int64_t sum_limit = std::numeric_limits<int64_t>::max());

// Clears what killed processes left in a run: hidden temporaries of checkpoints and files.
void remove_leftovers(const std::filesystem::path& run);

}  // namespace loci
