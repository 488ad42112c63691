#include "loci/train/comparison.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <map>
#include <optional>
#include <utility>
#include <vector>

#include "loci/base/progress.h"
#include "loci/train/text_table.h"

namespace loci {
namespace {

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

// A mean of counts has a digit more than a count.
Measure of_means(Measure measure, size_t count) {
  if (count > 1 && measure.digits == 0) measure.digits = 1;
  return measure;
}

std::string shown_spread(const Measure& measure, const std::vector<double>& values, bool sign = false) {
  if (values.empty()) return "";
  const Spread spread = spread_of(values);
  const Measure form = of_means(measure, spread.count);
  const std::string mean = (sign && spread.mean >= 0 ? "+" : "") + shown(form, spread.mean);
  return spread.count > 1 ? fmt::format("{} ± {}", mean, shown(form, spread.deviation)) : mean;
}

using Runs = std::vector<const RunResult*>;

struct Arms {
  std::vector<std::string> names;  // in the order of the runs
  std::map<std::string, Runs> runs;

  explicit Arms(const Summary& summary) {
    for (const RunResult& run : summary.runs) {
      if (!runs.contains(run.arm)) names.push_back(run.arm);
      runs[run.arm].push_back(&run);
    }
  }
  // Those that were not given the time of another and started from these weights (empty: drawn ones). An arm that goes
  // on behind the units of its start counts them, so that it belongs to those of drawn weights, and its start does not.
  std::vector<std::string> of_equal_units(const std::string& start) const {
    std::vector<std::string> result;
    for (const std::string& name : names) {
      if (runs.at(name).front()->as_long_as.empty() && !is_continued(name) && start_of(name) == start) {
        result.push_back(name);
      }
    }
    return result;
  }
  // Those that others go on from.
  std::vector<std::string> continued() const {
    std::vector<std::string> result;
    std::copy_if(names.begin(), names.end(), std::back_inserter(result),
                 [this](const std::string& name) { return is_continued(name); });
    return result;
  }
  bool is_continued(const std::string& name) const {
    return std::any_of(runs.begin(), runs.end(), [&name](const auto& arm) {
      const RunResult& run = *arm.second.front();
      return run.units_before > 0 && run.starts_from == name;
    });
  }
  std::string start_of(const std::string& name) const {
    const RunResult& run = *runs.at(name).front();
    return run.units_before > 0 ? "" : run.starts_from;
  }
  // What arms started from, first drawn weights.
  std::vector<std::string> starts() const {
    std::vector<std::string> result = {""};
    for (const std::string& name : names) {
      const std::string start = start_of(name);
      if (std::find(result.begin(), result.end(), start) == result.end()) result.push_back(start);
    }
    return result;
  }
  // (arm, the arm whose time it was given), where both are there.
  std::vector<std::pair<std::string, std::string>> of_equal_time() const {
    std::vector<std::pair<std::string, std::string>> result;
    for (const std::string& name : names) {
      const std::string& to = runs.at(name).front()->as_long_as;
      if (runs.contains(to)) result.emplace_back(name, to);
    }
    return result;
  }
};

double value_of(const RunResult& run, const Measure& measure) {
  const auto found = run.measures.find(measure.name);
  return found == run.measures.end() ? std::nan("") : found->second;
}

std::vector<double> values_of(const Runs& runs, const std::function<double(const RunResult&)>& value) {
  std::vector<double> values;
  for (const RunResult* run : runs) {
    if (const double number = value(*run); !std::isnan(number)) values.push_back(number);
  }
  return values;
}

std::vector<double> values_of(const Runs& runs, const Measure& measure) {
  return values_of(runs, [&](const RunResult& run) { return value_of(run, measure); });
}

// Against another arm with the same seed: what both seeds share cancels.
std::vector<double> paired_differences(const Runs& runs, const Runs& others, const Measure& measure) {
  std::vector<double> differences;
  for (const RunResult* run : runs) {
    for (const RunResult* other : others) {
      const double difference = value_of(*run, measure) - value_of(*other, measure);
      if (other->seed == run->seed && !std::isnan(difference)) differences.push_back(difference);
    }
  }
  return differences;
}

// A column of the table: its head, its line of explanation, and the cell of an arm.
struct Column {
  std::string head;
  std::string meaning;
  std::function<std::string(const Runs&)> cell;
};

std::string mean_count(const Runs& runs, const std::function<double(const RunResult&)>& value) {
  const auto values = values_of(runs, value);
  return values.empty() ? "" : format_count(spread_of(values).mean);
}

std::string better(const Measure& measure) {
  return measure.lower_is_better ? "lower is better" : "higher is better";
}

std::vector<Column> comparison_columns(const Summary& summary, const std::string& first, const Runs& first_runs) {
  const std::string& unit = summary.unit;
  std::vector<Column> columns = {
      {"arm", "", [](const Runs& runs) { return runs.front()->arm; }},
      {"dense", "parameters that every input uses",
       [](const Runs& runs) {
         const int64_t count = runs.front()->parameters_dense;
         return count > 0 ? format_count(static_cast<double>(count)) : "";
       }},
      {"table", "numbers in tables, of which an input reads a few rows",
       [](const Runs& runs) {
         const int64_t count = runs.front()->parameters_table;
         return count > 0 ? format_count(static_cast<double>(count)) : "";
       }},
      {"train " + unit, fmt::format("{} that it was trained on, with those of a start that it continues", unit),
       [](const Runs& runs) {
         return mean_count(runs, [](const RunResult& r) { return static_cast<double>(r.units_before + r.units); });
       }},
      {"train s", "seconds of training, without evaluation and checkpoints; arms run one after another",
       [](const Runs& runs) {
         return shown_spread({.name = "seconds", .digits = 1},
                             values_of(runs, [](const RunResult& r) { return r.seconds; }));
       }}};
  for (const Measure& measure : summary.measures) {
    columns.push_back({title_of(measure), fmt::format("{}; {}", measure.meaning, better(measure)),
                       [measure](const Runs& runs) { return shown_spread(measure, values_of(runs, measure)); }});
    if (measure.name != summary.measures.front().name) continue;
    columns.push_back({"vs " + first,
                       fmt::format("difference in {} to {} with the same seed", title_of(measure), first),
                       [measure, first, first_runs](const Runs& runs) {
                         if (runs.front()->arm == first) return std::string();
                         return shown_spread(measure, paired_differences(runs, first_runs, measure), true);
                       }});
  }
  columns.push_back(
      {fmt::format("inference {}/s", unit), "speed of the trained model, without gradients", [](const Runs& runs) {
         return mean_count(runs,
                           [](const RunResult& r) { return r.units_per_second_inference.value_or(std::nan("")); });
       }});
  return columns;
}

// The baselines of these arms as results of runs by (units, name) and seed: arms of equal units have the same. Units
// are the mean over an arm's seeds, which differ where it was given the time of another.
using BaselineRuns = std::map<std::pair<int64_t, std::string>, std::map<int64_t, RunResult>>;

BaselineRuns baselines_of(const std::vector<std::string>& names, const Arms& arms) {
  BaselineRuns result;
  for (const std::string& name : names) {
    const Runs& runs = arms.runs.at(name);
    int64_t units = 0;
    for (const RunResult* run : runs) units += (run->units_before + run->units) / std::ssize(runs);
    for (const RunResult* run : runs) {
      for (const Baseline& baseline : run->baselines) {
        RunResult row;
        row.arm = baseline.name;
        row.seed = run->seed;
        row.parameters_table = baseline.numbers;
        row.units = run->units;
        row.units_before = run->units_before;
        row.seconds = std::nan("");
        row.measures = baseline.measures;
        result[{units, baseline.name}][run->seed] = row;
      }
    }
  }
  return result;
}

std::string table_of(const std::vector<Column>& columns, const std::vector<std::string>& names, const Arms& arms) {
  std::vector<std::string> heads;
  for (const Column& column : columns) heads.push_back(column.head);
  TextTable table(heads);
  const auto add = [&](const Runs& runs) {
    std::vector<std::string> row;
    for (const Column& column : columns) row.push_back(column.cell(runs));
    table.add(std::move(row));
  };
  for (const std::string& name : names) add(arms.runs.at(name));
  for (const auto& [key, of_seed] : baselines_of(names, arms)) {
    Runs runs;
    for (const auto& [seed, run] : of_seed) runs.push_back(&run);
    add(runs);
  }
  return table.text();
}

// A line for each column that some table shows.
std::string meanings_of(const std::vector<Column>& columns, const Arms& arms) {
  std::vector<std::vector<std::string>> lines;
  size_t width = 0;
  for (const Column& column : columns) {
    const auto shows = [&](const auto& arm) { return !column.cell(arm.second).empty(); };
    if (column.meaning.empty() || std::none_of(arms.runs.begin(), arms.runs.end(), shows)) continue;
    lines.push_back({column.head, column.meaning});
  }
  for (const Baseline& baseline : arms.runs.begin()->second.front()->baselines) {
    lines.push_back({baseline.name, baseline.meaning});
  }
  for (const auto& line : lines) width = std::max(width, line[0].size());
  std::string text;
  for (const auto& line : lines) text += fmt::format("  {:{}}  {}\n", line[0], width, line[1]);
  return text;
}

std::string sentence(const std::string& when, const Measure& measure, const std::string& arm, const Runs& runs,
                     const std::string& other, const Runs& others) {
  const std::vector<double> differences = paired_differences(runs, others, measure);
  if (differences.empty()) return "";
  Spread gain = spread_of(differences);
  if (measure.lower_is_better) gain.mean = -gain.mean;
  Measure form = of_means(measure, gain.count);
  if (form.unit.starts_with("of ")) form.unit.clear();
  const std::string seeds =
      gain.count > 1 ? fmt::format(" ± {} over {} seeds", shown(form, gain.deviation), gain.count) : "";
  const std::string values =
      fmt::format("{} {} against {}", title_of(measure), shown(form, spread_of(values_of(runs, measure)).mean),
                  shown(form, spread_of(values_of(others, measure)).mean));
  constexpr double clear = 3;  // standard errors of the mean
  if (gain.count > 1 && std::abs(gain.mean) <= clear * gain.deviation / std::sqrt(static_cast<double>(gain.count))) {
    return fmt::format("{}, {} and {} do not differ clearly ({}; the difference is {}{}).\n", when, arm, other, values,
                       shown(form, std::abs(gain.mean), true), seeds);
  }
  return fmt::format("{}, {} is {} {} than {} ({}{}).\n", when, arm, shown(form, std::abs(gain.mean), true),
                     gain.mean >= 0 ? "better" : "worse", other, values,
                     seeds.empty() ? "; one seed, so its spread is unknown"
                                   : fmt::format("; difference {}{}", shown(form, std::abs(gain.mean)), seeds));
}

// The best against the first of the arms that started from the same weights.
std::string verdict_of_units(const Summary& summary, const Arms& arms, const std::string& start) {
  const Measure& measure = summary.measures.front();
  const std::vector<std::string> names = arms.of_equal_units(start);
  if (names.size() < 2) return "";
  const auto mean = [&](const std::string& name) {
    const double value = spread_of(values_of(arms.runs.at(name), measure)).mean;
    return measure.lower_is_better ? value : -value;
  };
  const auto best = std::min_element(names.begin() + 1, names.end(),
                                     [&](const std::string& a, const std::string& b) { return mean(a) < mean(b); });
  return sentence(fmt::format("After equally many training {}{}", summary.unit,
                              start.empty() ? "" : fmt::format(" from the weights of {}", start)),
                  measure, *best, arms.runs.at(*best), names.front(), arms.runs.at(names.front()));
}

}  // namespace

std::string verdict(const Summary& summary) {
  const Arms arms(summary);
  if (summary.measures.empty()) return "";
  const Measure& measure = summary.measures.front();
  std::string text;
  for (const auto& [arm, to] : arms.of_equal_time()) {
    text += sentence("At the same training time", measure, to, arms.runs.at(to), arm, arms.runs.at(arm));
  }
  if (!text.empty()) return text;
  for (const std::string& start : arms.starts()) text += verdict_of_units(summary, arms, start);
  return text;
}

nlohmann::json summary_json(const Summary& summary) {
  nlohmann::json json = summary;
  json["verdict"] = verdict(summary);
  return json;
}

std::string comparison_text(const Summary& summary) {
  const Arms arms(summary);
  if (arms.names.empty()) return "";
  size_t seeds = 1;
  for (const auto& [name, runs] : arms.runs) seeds = std::max(seeds, runs.size());
  const std::string of_seeds =
      seeds > 1 ? fmt::format(" (mean ± standard deviation of {} seeds, differences paired by seed)", seeds) : "";
  std::vector<Column> shown_columns;  // of all tables
  const auto table = [&](const std::string& first, const std::vector<std::string>& names) {
    const std::vector<Column> columns = comparison_columns(summary, first, arms.runs.at(first));
    for (const Column& column : columns) {
      const auto same = [&](const Column& other) { return other.head == column.head; };
      if (std::none_of(shown_columns.begin(), shown_columns.end(), same)) shown_columns.push_back(column);
    }
    return table_of(columns, names, arms);
  };
  std::string text = verdict(summary);
  for (const std::string& start : arms.starts()) {
    const std::vector<std::string> names = arms.of_equal_units(start);
    if (names.empty()) continue;
    const std::string from = start.empty() ? "" : fmt::format(" from the weights of {}", start);
    text += fmt::format("\nAt equal training {}{}{}\n\n{}", summary.unit, from, of_seeds, table(names.front(), names));
  }
  if (const std::vector<std::string> names = arms.continued(); !names.empty()) {
    text += fmt::format("\nWhat others go on from{}\n\n{}", of_seeds, table(names.front(), names));
  }
  for (const auto& [arm, to] : arms.of_equal_time()) {
    text += fmt::format("\nAt equal training time: {} trained for as long as {}, by their paces in turns\n\n{}", arm,
                        to, table(to, {to, arm}));
  }
  if (shown_columns.empty()) table(arms.names.front(), {});
  return text + "\n" + meanings_of(shown_columns, arms);
}

}  // namespace loci
