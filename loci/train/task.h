// A task: model, data, loss and measures. One trainer trains them all.
#pragma once

#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>

#include <nlohmann/json.hpp>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "loci/base/config.h"
#include "loci/optim/optimizer_set.h"

namespace loci {

// Bytes that a run will need, by purpose ("dense parameters", "table", "row optimiser state", "activations" ...).
using MemoryEstimate = std::vector<std::pair<std::string, int64_t>>;

class Task {
 public:
  virtual ~Task() = default;

  virtual torch::nn::Module& module() = 0;
  virtual std::vector<NamedParameter> dense_parameters() = 0;
  virtual std::vector<std::pair<TablePtr, RowOptimizerOptions>> tables() = 0;

  // The scalar loss of micro-batch `micro` of `step`: a pure function of them, the parameters and the seed.
  virtual at::Tensor loss(int64_t step, int64_t micro) = 0;
  virtual int64_t tokens_per_micro_batch() const = 0;
  // Measures on the validation data, in evaluation mode: {"loss": ..., "bits_per_byte": ..., "memories": [...]}.
  virtual nlohmann::json evaluate() = 0;
  // Called before each step; may change parameters and clear optimiser state (calibration, re-initialisation).
  virtual void before_step(int64_t step, OptimizerSet& optimizers) { (void)step, (void)optimizers; }
  // What the progress line and the log add to loss and rate: {"usage": ..., "kl": ...}.
  virtual nlohmann::json training_measures() { return nlohmann::json::object(); }

  // Tensors beyond parameters, buffers and tables (counters ...), to save and to copy into.
  virtual std::vector<std::pair<std::string, at::Tensor>> extra_state() { return {}; }
  // Files that a checkpoint must hold to be usable on its own (the tokenizer), by name.
  virtual std::vector<std::pair<std::string, std::string>> files() { return {}; }
};

}  // namespace loci
