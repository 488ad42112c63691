#include "loci/train/task.h"

#include <fmt/ranges.h>

#include "loci/base/check.h"

namespace loci {

Account Task::account(const Evaluation&, const AccountOptions& options) {
  if (options.lengths.empty()) return {};
  fail(ExitCode::usage, "--lengths", "RUN must be of a task whose instances have a length",
       fmt::format("{}", fmt::join(options.lengths, ",")));
}

void TaskPlan::convert_tables(const std::string& dtype) {
  fail(ExitCode::usage, "convert", fmt::format("RUN must have tables to become {}", dtype), "a task without tables");
}

}  // namespace loci
