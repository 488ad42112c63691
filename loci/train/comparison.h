// What an experiment found, for people: tables of means over seeds, each column explained, and the verdict.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

#include "loci/train/summary.h"

namespace loci {

// The tables: at equal training units, and at equal training time where there are such arms. Then a line for each
// column, and the verdict.
std::string comparison_text(const Summary& summary);

// One plain sentence by the first measure: "At the same training time, memory is 0.080 nats better than base (...).".
// Empty where there is nothing to compare.
std::string verdict(const Summary& summary);

// The summary and its verdict, as summary.json and `--json` show them.
nlohmann::json summary_json(const Summary& summary);

}  // namespace loci
