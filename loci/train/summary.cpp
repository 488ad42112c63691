#include "loci/train/summary.h"

#include <algorithm>

#include "loci/base/check.h"
#include "loci/base/durable_file.h"

namespace loci {

void to_json(nlohmann::json& json, const RunResult& result) {
  json = {{"arm", result.arm},
          {"seed", result.seed},
          {"as_long_as", nullptr},
          {"parameters_dense", result.parameters_dense},
          {"parameters_table", result.parameters_table},
          {"units", result.units},
          {"seconds", result.seconds},
          {"measures", result.measures},
          {"units_per_second_inference", nullptr},
          {"baselines", result.baselines}};
  if (!result.as_long_as.empty()) json["as_long_as"] = result.as_long_as;
  if (!result.starts_from.empty()) json["starts_from"] = result.starts_from;
  if (result.units_before > 0) json["units_before"] = result.units_before;
  if (result.units_per_second_inference) json["units_per_second_inference"] = *result.units_per_second_inference;
}

void from_json(const nlohmann::json& json, RunResult& result) {
  json.at("arm").get_to(result.arm);
  json.at("seed").get_to(result.seed);
  json.at("parameters_dense").get_to(result.parameters_dense);
  json.at("parameters_table").get_to(result.parameters_table);
  json.at("units").get_to(result.units);
  json.at("seconds").get_to(result.seconds);
  const nlohmann::json& as_long_as = json.at("as_long_as");
  if (!as_long_as.is_null()) as_long_as.get_to(result.as_long_as);
  result.starts_from = json.value("starts_from", std::string());
  result.units_before = json.value("units_before", int64_t{0});
  for (const auto& [name, value] : json.at("measures").get<std::map<std::string, nlohmann::json>>()) {
    result.measures[name] = number_of(value);
  }
  const nlohmann::json& speed = json.at("units_per_second_inference");
  if (!speed.is_null()) result.units_per_second_inference = speed.get<double>();
  json.at("baselines").get_to(result.baselines);
}

void to_json(nlohmann::json& json, const Summary& summary) {
  json = {{"task", summary.task}, {"unit", summary.unit}, {"measures", summary.measures}, {"runs", summary.runs}};
}

void from_json(const nlohmann::json& json, Summary& summary) {
  json.at("task").get_to(summary.task);
  json.at("unit").get_to(summary.unit);
  json.at("measures").get_to(summary.measures);
  json.at("runs").get_to(summary.runs);
}

Summary read_summary(const std::filesystem::path& path) {
  const std::string text = read_text_file(path);
  try {
    return nlohmann::json::parse(text).get<Summary>();
  } catch (const nlohmann::json::exception& error) {
    fail(ExitCode::input, path.string(), "the file must hold results of runs (move it away to begin a new one)",
         error.what());
  }
}

void merge(Summary& summary, const Summary& other, const std::string& who) {
  if (summary.runs.empty()) {
    summary.task = other.task;
    summary.unit = other.unit;
  }
  if (summary.task != other.task) {
    fail(ExitCode::usage, who, fmt::format("all runs must be of the task {}", summary.task), other.task);
  }
  for (const Measure& measure : other.measures) {
    const auto same = [&](const Measure& known) { return known.name == measure.name; };
    if (std::none_of(summary.measures.begin(), summary.measures.end(), same)) summary.measures.push_back(measure);
  }
  for (const RunResult& run : other.runs) {
    const auto same = [&](const RunResult& known) { return known.arm == run.arm && known.seed == run.seed; };
    const auto found = std::find_if(summary.runs.begin(), summary.runs.end(), same);
    if (found == summary.runs.end()) {
      summary.runs.push_back(run);
    } else {
      *found = run;
    }
  }
}

}  // namespace loci
