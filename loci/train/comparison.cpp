#include "loci/train/comparison.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <map>

#include "loci/base/progress.h"
#include "loci/train/text_table.h"
#include "loci/train/trainer.h"

namespace loci {
namespace {

nlohmann::json or_null(const std::optional<double>& value) {
  return value ? nlohmann::json(*value) : nlohmann::json(nullptr);
}

std::optional<double> optional_number(const nlohmann::json& value) {
  return value.is_null() ? std::nullopt : std::optional(value.get<double>());
}

struct Spread {
  double mean = 0;
  double deviation = 0;  // of a sample
  size_t count = 0;
};

Spread spread_of(const std::vector<double>& values) {
  Spread spread{0, 0, values.size()};
  for (const double value : values) spread.mean += value / static_cast<double>(values.size());
  for (const double value : values) spread.deviation += (value - spread.mean) * (value - spread.mean);
  spread.deviation = values.size() > 1 ? std::sqrt(spread.deviation / static_cast<double>(values.size() - 1)) : 0;
  return spread;
}

std::string shown(const std::vector<double>& values, int digits, bool sign = false) {
  if (values.empty()) return "";
  const Spread spread = spread_of(values);
  const std::string mean =
      sign ? fmt::format("{:+.{}f}", spread.mean, digits) : fmt::format("{:.{}f}", spread.mean, digits);
  return spread.count > 1 ? fmt::format("{} ± {:.{}f}", mean, spread.deviation, digits) : mean;
}

using Runs = std::vector<const RunResult*>;

std::vector<double> values_of(const Runs& runs, const std::function<std::optional<double>(const RunResult&)>& value) {
  std::vector<double> values;
  for (const RunResult* run : runs) {
    if (const auto number = value(*run)) values.push_back(*number);
  }
  return values;
}

double mean_of(const Runs& runs, const std::function<std::optional<double>(const RunResult&)>& value) {
  return spread_of(values_of(runs, value)).mean;
}

// Loss against another arm's with the same seed: what both seeds share cancels.
std::vector<double> paired_differences(const Runs& runs, const Runs& others) {
  std::vector<double> differences;
  for (const RunResult* run : runs) {
    for (const RunResult* other : others) {
      if (other->seed == run->seed) differences.push_back(run->loss - other->loss);
    }
  }
  return differences;
}

std::map<std::string, Runs> by_arm(const std::vector<RunResult>& results) {
  std::map<std::string, Runs> runs;
  for (const RunResult& result : results) runs[result.arm].push_back(&result);
  return runs;
}

std::vector<std::string> row_of(const Runs& runs, const Runs& first, bool is_first) {
  const auto seconds = [](const RunResult& r) { return r.seconds; };
  const auto tokens = [](const RunResult& r) { return static_cast<double>(r.train_tokens); };
  const auto inference = [](const RunResult& r) { return r.tokens_per_second_inference; };
  const auto usage = values_of(runs, [](const RunResult& r) { return r.usage; });
  const auto kl = values_of(runs, [](const RunResult& r) { return r.kl; });
  const RunResult& any = *runs.front();
  const auto speeds = values_of(runs, inference);
  return {any.arm,
          format_count(static_cast<double>(any.parameters_dense)),
          any.parameters_table > 0 ? format_count(static_cast<double>(any.parameters_table)) : "",
          format_count(mean_of(runs, tokens)),
          shown(values_of(runs, seconds), 1),
          shown(values_of(runs, [](const RunResult& r) { return r.loss; }), 3),
          is_first ? "" : shown(paired_differences(runs, first), 3, true),
          shown(values_of(runs, [](const RunResult& r) { return r.bits_per_byte; }), 3),
          speeds.empty() ? "" : format_count(spread_of(speeds).mean),
          usage.empty() ? "" : fmt::format("{:.0f} %", 100 * spread_of(usage).mean),
          kl.empty() ? "" : fmt::format("{:.2f}", spread_of(kl).mean)};
}

std::vector<std::string> header_of(const std::string& first) {
  return {"arm",         "dense",     "table",           "train tokens", "train s", "loss",
          "vs " + first, "bits/byte", "inference tok/s", "usage",        "KL"};
}

std::string table_of(const std::vector<std::string>& arms, std::map<std::string, Runs>& runs) {
  TextTable table(header_of(arms.front()));
  for (const std::string& arm : arms) table.add(row_of(runs[arm], runs[arms.front()], arm == arms.front()));
  return table.text();
}

}  // namespace

nlohmann::json to_json(const RunResult& result) {
  nlohmann::json row = {{"arm", result.arm},
                        {"seed", result.seed},
                        {"parameters_dense", result.parameters_dense},
                        {"parameters_table", result.parameters_table},
                        {"train_tokens", result.train_tokens},
                        {"seconds", result.seconds},
                        {"loss", result.loss},
                        {"bits_per_byte", result.bits_per_byte},
                        {"tokens_per_second_inference", or_null(result.tokens_per_second_inference)},
                        {"usage", or_null(result.usage)},
                        {"kl", or_null(result.kl)}};
  if (!result.text.empty()) row["text"] = result.text;
  return row;
}

RunResult run_result(const nlohmann::json& json, const std::string& who) {
  try {
    RunResult result;
    json.at("arm").get_to(result.arm);
    json.at("seed").get_to(result.seed);
    json.at("parameters_dense").get_to(result.parameters_dense);
    json.at("parameters_table").get_to(result.parameters_table);
    json.at("train_tokens").get_to(result.train_tokens);
    json.at("seconds").get_to(result.seconds);
    result.loss = number_of(json.at("loss"));
    result.bits_per_byte = number_of(json.at("bits_per_byte"));
    result.tokens_per_second_inference = optional_number(json.at("tokens_per_second_inference"));
    result.usage = optional_number(json.at("usage"));
    result.kl = optional_number(json.at("kl"));
    result.text = json.value("text", "");
    return result;
  } catch (const nlohmann::json::exception& error) {
    fail(ExitCode::input, who, "the file must hold a run's result", error.what());
  }
}

std::string comparison_text(const std::vector<RunResult>& results, const Recipe& recipe) {
  std::string accounts;
  for (const RunResult& result : results) {
    if (result.text.empty()) continue;
    accounts +=
        fmt::format("\n{}, seed {}, {}\n{}", result.arm, result.seed, format_seconds(result.seconds), result.text);
  }
  if (!accounts.empty()) return accounts;
  auto runs = by_arm(results);
  std::vector<std::string> equal_tokens;
  std::vector<std::pair<std::string, std::string>> equal_time;  // arm, the arm that set its time
  size_t seeds = 1;
  for (const Arm& arm : recipe.arms) {
    if (!runs.contains(arm.name)) continue;
    seeds = std::max(seeds, runs[arm.name].size());
    if (!arm.equal_time) {
      equal_tokens.push_back(arm.name);
    } else if (runs.contains(arm.equal_time->to)) {
      equal_time.emplace_back(arm.name, arm.equal_time->to);
    }
  }
  const std::string of_seeds =
      seeds > 1 ? fmt::format(" (mean ± standard deviation of {} seeds, differences paired by seed)", seeds) : "";
  std::string text;
  if (!equal_tokens.empty()) {
    text += fmt::format("\nAt equal training tokens{}\n\n{}", of_seeds, table_of(equal_tokens, runs));
  }
  for (const auto& [arm, to] : equal_time) {
    text +=
        fmt::format("\nAt equal training time: {} trained for as long as {}\n\n{}", arm, to, table_of({to, arm}, runs));
  }
  return text;
}

}  // namespace loci
