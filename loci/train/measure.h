// Measures: the numbers that a task is judged by. Files, tables and reports take the list as a task gives it.
#pragma once

#include <nlohmann/json.hpp>

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace loci {

struct Measure {
  std::string name;             // the key in files and, with spaces for '_', the head of its column
  int digits = 3;               // shown after the point
  bool lower_is_better = true;  //
  std::string unit = "";        // "nats", "of 16"; "%" for a share, which is shown times 100
  std::string meaning = "";     // one line for readers of a table
  bool operator==(const Measure&) const = default;
};

// What an evaluation found.
struct Evaluation {
  std::vector<double> values;                         // of the task's measures, in their order; NaN where there is none
  nlohmann::json details = nlohmann::json::object();  // anything else that is worth keeping
};

// What a simple method without a network reaches on the same data, for a reader who wants to know what the network
// adds.
struct Baseline {
  std::string name;                        // "counted bigrams"
  std::string meaning;                     // one line for readers of a table
  int64_t numbers = 0;                     // that it keeps
  std::map<std::string, double> measures;  // of the task's, by name
};

void to_json(nlohmann::json& json, const Measure& measure);
void from_json(const nlohmann::json& json, Measure& measure);
void to_json(nlohmann::json& json, const Baseline& baseline);
void from_json(const nlohmann::json& json, Baseline& baseline);
// {"measures": {name: value}, "details": ...}, as logs and manifests keep it. Throws Error (bug) for another number of
// values.
nlohmann::json evaluation_json(const std::vector<Measure>& measures, const Evaluation& evaluation);

// A number of a file; NaN for null, which JSON writes for it.
double number_of(const nlohmann::json& value);

std::string title_of(const Measure& measure);
// "3.912", "42 %"; with `unit` "3.912 nats", "9 of 16"; "" for NaN.
std::string shown(const Measure& measure, double value, bool unit = false);

}  // namespace loci
