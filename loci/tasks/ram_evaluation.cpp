// Legend: S seeds, B samples, M values and cells.
#include "loci/tasks/ram_evaluation.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>

#include <algorithm>

#include "loci/base/wilson.h"
#include "loci/tasks/discretise.h"

namespace loci {

RamBatch::RamBatch(int64_t seeds, int64_t samples, int64_t M)
    : tape(at::zeros({seeds, samples, M}, at::kInt)),
      target(at::full({seeds, samples, M}, -1, at::kInt)),
      cell_weight(at::zeros({seeds, samples, M}, at::kFloat)) {}

void RamBatch::set(int64_t seed, int64_t sample, const RamInstance& instance) {
  const int64_t M = tape.size(2), place = (seed * tape.size(1) + sample) * M;
  std::copy(instance.tape.begin(), instance.tape.end(), tape.mutable_data_ptr<int32_t>() + place);
  const RamAnswer& answer = instance.answer;
  for (size_t i = 0; i < answer.cells.size(); ++i) {
    const int64_t cell = place + answer.cells[i];
    target.mutable_data_ptr<int32_t>()[cell] = static_cast<int32_t>(answer.values[i]);
    cell_weight.mutable_data_ptr<float>()[cell] = answer.weights.empty() ? 1.0F : static_cast<float>(answer.weights[i]);
  }
}

namespace {

constexpr int64_t kChunk = 64;  // instances at once: a tape is M^2 numbers

void add_soft(NeuralRam& machine, int64_t seed_index, const RamTask& task, int64_t slack, int64_t instances,
              const std::function<void()>& between, RandomSequence& random, RamError& error) {
  const auto M = static_cast<int64_t>(task.minimum_tape(error.length)) + slack;
  for (int64_t done = 0; done < instances; done += kChunk) {
    if (between) between();
    const int64_t count = std::min(kChunk, instances - done);
    RamBatch batch(1, count, M);
    for (int64_t i = 0; i < count; ++i) {
      const RamInstance instance = sample(task, error.length, static_cast<uint32_t>(M), random);
      error.cells += std::ssize(instance.answer.cells);
      batch.set(0, i, instance);
    }
    const RamUnrollOutput out =
        machine.run({batch.tape, batch.target, batch.cell_weight,
                     at::full({1}, task.training_steps(error.length), at::kLong), at::zeros({1})},
                    false, {seed_index});
    error.instances += count;
    for (int64_t i = 0; i < count; ++i) {
      const int64_t wrong = out.wrong.const_data_ptr<int32_t>()[i];
      error.wrong_cells += wrong;
      error.wrong_instances += wrong > 0;
    }
  }
}

}  // namespace

std::vector<RamError> soft_errors(NeuralRam& machine, int64_t seed_index, const RamTask& task,
                                  const std::vector<int64_t>& lengths, const RamMeasureOptions& options) {
  std::vector<RamError> errors;
  for (const int64_t length : lengths) {
    if (length < task.minimum_difficulty) continue;
    RamError error{.length = length};
    const auto parts = static_cast<int64_t>(options.slacks.size());
    for (int64_t i = 0; i < parts; ++i) {
      RandomSequence random(CounterRandom(options.seed, fmt::format("ram/soft/{}/{}", task.name, length)),
                            static_cast<uint64_t>(i) << 40);
      const int64_t instances = options.instances * (i + 1) / parts - options.instances * i / parts;
      add_soft(machine, seed_index, task, options.slacks[static_cast<size_t>(i)], instances, options.between, random,
               error);
    }
    errors.push_back(error);
  }
  return errors;
}

std::vector<RamError> discrete_errors(const NeuralRam& machine, int64_t seed_index, const RamTask& task,
                                      const std::vector<int64_t>& lengths, const RamMeasureOptions& options) {
  InstanceOptions instances;
  instances.lengths = lengths;
  instances.instances = options.instances;
  instances.seed = options.seed;
  instances.slacks.assign(options.slacks.begin(), options.slacks.end());
  std::vector<RamError> errors;
  for (const LengthReport& row :
       verify(discrete_runner(machine, seed_index, options.between), task, instances).lengths) {
    errors.push_back({row.length, row.instances, row.wrong_instances, row.cells, row.wrong_cells});
  }
  return errors;
}

nlohmann::json to_json(const std::vector<RamError>& errors) {
  nlohmann::json list = nlohmann::json::array();
  for (const RamError& error : errors) {
    const Interval interval = wilson_interval(error.wrong_instances, error.instances);
    list.push_back(
        {{"length", error.length},
         {"instances", error.instances},
         {"cell_error", error.cell_error()},
         {"instance_error", static_cast<double>(error.wrong_instances) / static_cast<double>(error.instances)},
         {"instance_error_interval", {interval.low, interval.high}}});
  }
  return list;
}

}  // namespace loci
