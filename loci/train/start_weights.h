// Trained weights that a run starts from in place of drawn ones: of another run, or of a safetensors file.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>

#include "loci/train/checkpoint_folder.h"
#include "loci/train/task.h"

namespace loci {

class StartWeights {
 public:
  // `source`: a safetensors file, a step-N folder, or a run directory, of which the newest whole checkpoint is taken;
  // `notice` gets a line for each that is not whole. Checksums are compared for files of at most `sum_limit` bytes.
  // Throws Error (input).
  StartWeights(const std::filesystem::path& source, const std::function<void(const std::string&)>& notice,
               int64_t sum_limit = std::numeric_limits<int64_t>::max());

  // The file or the step-N folder.
  const std::filesystem::path& path() const { return checkpoint_ ? checkpoint_->path() : file_; }
  // The step-N folder, whose task files (tokenizer, scale of images) the run goes on with; empty for a file.
  std::filesystem::path checkpoint() const { return checkpoint_ ? checkpoint_->path() : std::filesystem::path(); }

  // Copies parameters, buffers and tables into a task that was just made, before its optimisers are made. What is new
  // in its model stays as it was drawn (Task::start_from). Returns a line that says how much was copied. Throws Error
  // (input) for weights of another model.
  std::string copy_into(Task& task) const;

 private:
  std::optional<CheckpointReader> checkpoint_;
  std::filesystem::path file_;  // of the dense tensors
};

}  // namespace loci
