// How well trained machines do: soft, as they were trained, and discrete; at any length and tape size.
//
// Legend: S seeds, B samples, M values and cells.
#pragma once

#include <nlohmann/json.hpp>

#include <cstdint>
#include <functional>
#include <vector>

#include "loci/data/ram/ram_tasks.h"
#include "loci/nn/machine/neural_ram.h"

namespace loci {

// Instances as the operator takes them: [S, B, M] each.
struct RamBatch {
  at::Tensor tape, target;  // int32
  at::Tensor cell_weight;   // float32
  RamBatch(int64_t seeds, int64_t samples, int64_t M);
  void set(int64_t seed, int64_t sample, const RamInstance& instance);
};

struct RamError {
  int64_t length = 0;
  int64_t instances = 0;
  int64_t wrong_instances = 0;
  int64_t cells = 0;
  int64_t wrong_cells = 0;
  double cell_error() const { return cells == 0 ? 0 : static_cast<double>(wrong_cells) / static_cast<double>(cells); }
};

struct RamMeasureOptions {
  int64_t instances = 256;
  std::vector<int64_t> slacks = {2, 10};  // cells beyond the minimum; instances alternate between them
  uint64_t seed = 7;
  std::function<void()> between = {};  // called now and then; may throw to end the work
};

// Of one seed, at each length, the machine as it was trained.
std::vector<RamError> soft_errors(NeuralRam& machine, int64_t seed_index, const RamTask& task,
                                  const std::vector<int64_t>& lengths, const RamMeasureOptions& options);
// The same after discretisation.
std::vector<RamError> discrete_errors(const NeuralRam& machine, int64_t seed_index, const RamTask& task,
                                      const std::vector<int64_t>& lengths, const RamMeasureOptions& options);

// {"length", "instances", "cell_error", "instance_error", "instance_error_interval"}; the interval is Wilson's.
nlohmann::json to_json(const std::vector<RamError>& errors);

}  // namespace loci
