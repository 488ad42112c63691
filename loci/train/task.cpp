#include "loci/train/task.h"

#include <fmt/ranges.h>

#include "loci/base/check.h"
#include "loci/models/load_state.h"

namespace loci {

void refuse_lengths(const AccountOptions& options) {
  if (options.lengths.empty()) return;
  fail(ExitCode::usage, "--lengths", "RUN must be of a task whose instances have a length",
       fmt::format("{}", fmt::join(options.lengths, ",")));
}

void refuse_text_options(const AccountOptions& options) {
  const char* const expected = "RUN must be a language model";
  if (options.by_context) fail(ExitCode::usage, "--by-context", expected, "another task");
  if (!options.questions.empty()) fail(ExitCode::usage, "--questions", expected, "another task");
}

void refuse_places(const AccountOptions& options) {
  if (options.places) fail(ExitCode::usage, "--places", "RUN must be of relocalisation with a memory", "another");
}

void refuse_poses(const AccountOptions& options) {
  if (options.poses) fail(ExitCode::usage, "--poses", "RUN must be of relocalisation", "another");
}

void refuse_pictures(const AccountOptions& options) {
  if (options.pictures > 0) fail(ExitCode::usage, "--pictures", "RUN must be of pair_shapes", "another task");
}

Account Task::account(const Evaluation&, const AccountOptions& options) {
  refuse_pictures(options);
  refuse_poses(options);
  refuse_places(options);
  refuse_lengths(options);
  refuse_text_options(options);
  return {};
}

void Task::start_from(const std::map<std::string, at::Tensor>& state, const std::string& who) {
  load_state(who, module(), state, [](const std::string&) { return std::string(); });
}

void TaskPlan::check_ranks(const Ranks& ranks) const {
  if (ranks.size == 1) return;
  fail(ExitCode::usage, "train", "the task must be language_model to train on several ranks",
       fmt::format("another task on {}", ranks.size));
}

void TaskPlan::convert_tables(const std::string& dtype) {
  fail(ExitCode::usage, "convert", fmt::format("RUN must have tables to become {}", dtype), "a task without tables");
}

std::vector<std::pair<std::string, at::Tensor>> TaskPlan::pack(const CheckpointReader&) {
  fail(ExitCode::usage, "convert", "RUN must be of binary_network to be packed", "another task");
}

}  // namespace loci
