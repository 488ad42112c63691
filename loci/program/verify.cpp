#include "loci/program/verify.h"

#include <algorithm>

#include <nlohmann/json.hpp>

#include "loci/base/wilson.h"

namespace loci {
namespace {

double share_of(int64_t hits, int64_t trials) {
  return trials == 0 ? 0 : static_cast<double>(hits) / static_cast<double>(trials);
}

nlohmann::json report_json(const LengthReport& report) {
  const Interval interval = wilson_interval(report.wrong_instances, report.instances);
  nlohmann::json steps = nlohmann::json::object();
  for (const auto& [count, runs] : report.steps) steps[fmt::to_string(count)] = runs;
  return {{"length", report.length},
          {"instances", report.instances},
          {"instance_error", share_of(report.wrong_instances, report.instances)},
          {"instance_error_interval", {interval.low, interval.high}},
          {"cell_error", share_of(report.wrong_cells, report.cells)},
          {"forced", report.forced},
          {"unseen", report.unseen},
          {"steps", steps}};
}

}  // namespace

LengthReport VerifyReport::total() const {
  LengthReport sum;
  for (const LengthReport& report : lengths) {
    sum.length = std::max(sum.length, report.length);
    sum.instances += report.instances;
    sum.wrong_instances += report.wrong_instances;
    sum.cells += report.cells;
    sum.wrong_cells += report.wrong_cells;
    sum.forced += report.forced;
    sum.unseen += report.unseen;
    for (const auto& [steps, runs] : report.steps) sum.steps[steps] += runs;
  }
  return sum;
}

VerifyReport verify(const RamRunner& run, const RamTask& task, const InstanceOptions& options) {
  VerifyReport report;
  for_each_instance(task, options, [&](int64_t length, RamInstance& instance) {
    if (report.lengths.empty() || report.lengths.back().length != length) {
      report.lengths.emplace_back().length = length;
    }
    LengthReport& row = report.lengths.back();
    Tape tape = instance.tape;
    const RamRunResult result = run(tape, static_cast<uint32_t>(task.training_steps(length)));
    const int64_t wrong = wrong_cells(instance.answer, tape);
    ++row.instances;
    row.wrong_instances += wrong > 0;
    row.cells += static_cast<int64_t>(instance.answer.cells.size());
    row.wrong_cells += wrong;
    row.forced += result.reason == StopReason::forced;
    row.unseen += result.reason == StopReason::unseen;
    ++row.steps[result.steps];
    if (wrong > 0 && !report.counter_example) {
      report.counter_example = {.length = length,
                                .tape = std::move(instance.tape),
                                .result = std::move(tape),
                                .answer = std::move(instance.answer),
                                .run = result};
    }
  });
  return report;
}

VerifyReport verify(const RamProgram& program, const RamTask& task, const InstanceOptions& options) {
  return verify([&](std::span<uint32_t> tape, uint32_t max_steps) { return program.run(tape, max_steps); }, task,
                options);
}

nlohmann::json to_json(const VerifyReport& report) {
  nlohmann::json lengths = nlohmann::json::array();
  for (const LengthReport& row : report.lengths) lengths.push_back(report_json(row));
  nlohmann::json example;
  if (report.counter_example) {
    const CounterExample& first = *report.counter_example;
    example = {{"length", first.length},          {"tape", first.tape},
               {"result", first.result},          {"output_cells", first.answer.cells},
               {"expected", first.answer.values}, {"steps", first.run.steps},
               {"end", name_of(first.run.reason)}};
  }
  return {{"exact", report.exact()},
          {"lengths", lengths},
          {"total", report_json(report.total())},
          {"counter_example", example}};
}

}  // namespace loci
