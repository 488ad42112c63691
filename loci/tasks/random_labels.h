// Vectors with a large common mean and random labels: what a memory must learn by heart (Karimov et al. 2021, "CNN with
// large memory layers"; the set is ours, for only the abstract is known to us). Labels have nothing to do with vectors,
// so only training accuracy counts.
//
// Legend: B batch, C classes (64), d width of a vector (64), h hidden width.
//
//   mean_j = 4 * (0.5 + u), u uniform in [0, 1);  x = relu(mean + z), z ~ N(0, I)      once for a seed
//   memory   logits = W m(x) + b, m a product-key memory of one head with halves of 32
//   mlp      logits = W relu(V x + a) + b
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "loci/nn/memory/product_key_memory.h"
#include "loci/nn/memory/reinitialise.h"
#include "loci/tasks/memory_task.h"
#include "loci/train/task.h"

namespace loci {

// [data]
struct RandomLabelsData {
  int64_t vectors = 12'288;
  void fields(ConfigFields& f);
};

enum class RandomLabelsModelKind { memory, mlp };
// dead: three quarters of the sub-keys start as zeros, which no query finds.
enum class RandomLabelsStart { normal, dead };

// [model]
struct RandomLabelsModelOptions {
  RandomLabelsModelKind kind = RandomLabelsModelKind::memory;
  int64_t rows = 4096;
  int64_t top_k = 2;
  QueryNorm query_norm = QueryNorm::batch;
  RandomLabelsStart start = RandomLabelsStart::normal;
  bool has_reinitialise = false;
  ReinitialiseOptions reinitialise;
  int64_t hidden = 97;  // of the mlp: as many multiply-adds as the memory of 4,096 rows
  void fields(ConfigFields& f);
};

class RandomLabelsPlan : public TaskPlan {
 public:
  void fields(ConfigFields& f) override;
  void check() const override;
  std::string unit() const override { return "vectors"; }
  RunSize size(const BatchShape& batch, const RowOptimizerOptions& rows, bool bfloat16) const override;
  bool needs_data() const override { return false; }
  std::unique_ptr<Task> make(const TaskInputs& inputs) const override;

  RandomLabelsData data;
  RandomLabelsModelOptions model;
};

std::unique_ptr<TaskPlan> random_labels_plan();

class RandomLabels : public MemoryTask {
 public:
  RandomLabels(const RandomLabelsPlan& plan, const TaskInputs& inputs);

  torch::nn::Module& module() override;
  std::vector<NamedParameter> dense_parameters() override;
  at::Tensor loss(int64_t step, int64_t micro) override;
  std::string unit() const override { return plan_.unit(); }
  std::vector<Measure> measures() const override;
  Evaluation evaluate() override;
  int64_t infer(int64_t position) override;
  std::string data_key() const override;

 private:
  class Model;

  RandomLabelsPlan plan_;
  std::shared_ptr<Model> model_;
  at::Tensor vectors_, labels_;  // [vectors, d], [vectors] int64
};

}  // namespace loci
