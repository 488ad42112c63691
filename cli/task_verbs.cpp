// The verbs that tasks bring, in the order of tasks/all.cpp.
#include <map>
#include <string>

#include "cli/verbs.h"
#include "loci/base/check.h"
#include "loci/tasks/all.h"

namespace loci::cli {

void add_task_verbs(CLI::App& program, Action& action) {
  using Add = void (*)(CLI::App&, Action&);
  static const std::map<std::string, Add> verbs = {
      {"generate", add_generate}, {"predict", add_predict}, {"program", add_program}};
  std::map<std::string, Add> left = verbs;  // two tasks may share a verb
  for (const TaskKind& kind : all_tasks()) {
    for (const std::string& name : kind.verbs) {
      const auto verb = verbs.find(name);
      if (verb == verbs.end()) fail(ExitCode::bug, kind.name, "a task's verb must be one of the command line", name);
      if (left.erase(name) > 0) verb->second(program, action);
    }
  }
}

}  // namespace loci::cli
