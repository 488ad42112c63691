#include "loci/data/class_names.h"

#include <fmt/format.h>

#include <algorithm>
#include <tuple>

#include "loci/base/check.h"
#include "loci/data/file_inventory.h"

namespace loci {

void check_same_classes(const std::filesystem::path& folder, const std::vector<std::string>& train,
                        const std::vector<std::string>& test, std::string_view things) {
  for (const auto& [part, all, others] :
       {std::tuple(kTestPart, &train, &test), std::tuple(kTrainPart, &test, &train)}) {
    CountedNames missing;
    for (const std::string& name : *all) {
      if (std::ranges::find(*others, name) == others->end()) missing.add(name);
    }
    if (missing.count == 0) continue;
    fail(ExitCode::input, (folder / part).string(),
         fmt::format("train and test must hold {} of the same classes", things),
         fmt::format("none of {}", missing.text()));
  }
}

}  // namespace loci
