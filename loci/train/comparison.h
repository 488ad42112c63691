// What an experiment found, for people: the verdict, then tables of means over seeds with each column explained.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

#include "loci/train/summary.h"

namespace loci {

// The verdict, then the tables: at equal training units, and at equal training time where there are such arms. Last, a
// line for each column.
std::string comparison_text(const Summary& summary);

// One plain sentence by the first measure: "At the same training time, memory is 0.080 nats better than base (...).".
// Empty where there is nothing to compare. It names none of the two better unless the mean difference over seeds is
// more than three times its standard error; of one seed it says that the spread is unknown.
std::string verdict(const Summary& summary);

// The summary and its verdict, as summary.json and `--json` show them.
nlohmann::json summary_json(const Summary& summary);

}  // namespace loci
