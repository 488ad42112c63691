#include "loci/train/measure.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "loci/base/check.h"

namespace loci {

void to_json(nlohmann::json& json, const Measure& measure) {
  json = {{"name", measure.name},
          {"digits", measure.digits},
          {"lower_is_better", measure.lower_is_better},
          {"unit", measure.unit},
          {"meaning", measure.meaning}};
}

void from_json(const nlohmann::json& json, Measure& measure) {
  json.at("name").get_to(measure.name);
  measure.digits = std::clamp(json.at("digits").get<int>(), 0, 17);
  json.at("lower_is_better").get_to(measure.lower_is_better);
  json.at("unit").get_to(measure.unit);
  json.at("meaning").get_to(measure.meaning);
}

void to_json(nlohmann::json& json, const Baseline& baseline) {
  json = {{"name", baseline.name},
          {"meaning", baseline.meaning},
          {"numbers", baseline.numbers},
          {"measures", baseline.measures}};
}

void from_json(const nlohmann::json& json, Baseline& baseline) {
  json.at("name").get_to(baseline.name);
  json.at("meaning").get_to(baseline.meaning);
  json.at("numbers").get_to(baseline.numbers);
  for (const auto& [name, value] : json.at("measures").get<std::map<std::string, nlohmann::json>>()) {
    baseline.measures[name] = number_of(value);
  }
}

nlohmann::json evaluation_json(const std::vector<Measure>& measures, const Evaluation& evaluation) {
  if (measures.size() != evaluation.values.size()) {
    fail(ExitCode::bug, "evaluate", fmt::format("there must be {} values", measures.size()),
         fmt::to_string(evaluation.values.size()));
  }
  nlohmann::json values = nlohmann::json::object();
  for (size_t i = 0; i < measures.size(); ++i) values[measures[i].name] = evaluation.values[i];
  return {{"measures", values}, {"details", evaluation.details}};
}

double number_of(const nlohmann::json& value) {
  return value.is_number() ? value.get<double>() : std::numeric_limits<double>::quiet_NaN();
}

std::string title_of(const Measure& measure) {
  std::string title = measure.name;
  std::replace(title.begin(), title.end(), '_', ' ');
  return title;
}

std::string shown(const Measure& measure, double value, bool unit) {
  if (std::isnan(value)) return "";
  if (measure.unit == "%") return fmt::format("{:.{}f} %", 100 * value, measure.digits);
  const std::string text = fmt::format("{:.{}f}", value, measure.digits);
  return unit && !measure.unit.empty() ? fmt::format("{} {}", text, measure.unit) : text;
}

}  // namespace loci
