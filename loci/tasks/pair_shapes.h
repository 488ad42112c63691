// Are two distant patterns the same? Images or clips that are made anew for every step (data/procedural/pair_shapes.h),
// and a network that answers only if its middle relates distant positions (models/pair_net.h): what separates non-local
// layers from local ones (recipes/non-local-forms, recipes/non-local-domains).
//
// Legend: B samples of a batch, T frames.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "loci/data/procedural/pair_shapes.h"
#include "loci/models/pair_net.h"
#include "loci/tasks/class_accuracy.h"
#include "loci/tasks/non_local_watch.h"
#include "loci/train/read_ahead.h"
#include "loci/train/task.h"

namespace loci {

// [data]
struct PairTaskData {
  PairShapesOptions shapes;
  int64_t test_samples = 4096;  // the same ones for every seed
  void fields(ConfigFields& f);
};

class PairShapesPlan : public TaskPlan {
 public:
  void fields(ConfigFields& f) override;
  void check() const override;
  std::string unit() const override { return "samples"; }
  RunSize size(const BatchShape& batch, const RowOptimizerOptions& rows, bool bfloat16) const override;
  bool needs_data() const override { return false; }
  std::unique_ptr<Task> make(const TaskInputs& inputs) const override;

  PairNetOptions model_of_data() const;

  PairTaskData data;
  PairNetOptions model;
};

std::unique_ptr<TaskPlan> pair_shapes_plan();

class PairShapesTask : public Task {
 public:
  PairShapesTask(const PairShapesPlan& plan, const TaskInputs& inputs);

  torch::nn::Module& module() override { return *model_; }
  std::vector<NamedParameter> dense_parameters() override { return model_->dense_parameters(); }
  std::vector<std::pair<TablePtr, RowOptimizerOptions>> tables() override { return {}; }
  at::Tensor loss(int64_t step, int64_t micro) override;
  std::string unit() const override { return plan_.unit(); }
  int64_t units_per_micro_batch() const override { return batch_.per_micro_batch(); }
  std::vector<Measure> measures() const override;
  Evaluation evaluate() override;
  Account account(const Evaluation& evaluation, const AccountOptions& options) override;
  int64_t infer(int64_t position) override;
  void before_step(int64_t step, OptimizerSet&) override { watch_.before_step(step); }
  std::vector<TaskEvent> after_step(const StepMade& made, OptimizerSet&) override {
    return watch_.after_step(made.step);
  }
  nlohmann::json training_measures(bool) override { return right_.take(); }
  std::vector<std::pair<std::string, at::Tensor>> extra_state() override { return {right_.state()}; }
  std::string data_key() const override;

 private:
  struct Batch {
    at::Tensor frames;  // [B, T, 32, 32]
    at::Tensor labels;  // [B] int64
  };
  Batch batch_of(const PairShapes& shapes, int64_t first, int64_t count) const;
  Batch test_batch(int64_t index) const;
  int64_t test_batches() const;
  // The first test samples: frames, answers, and where the block looks.
  nlohmann::json pictures(int64_t count);

  PairShapesPlan plan_;
  BatchShape batch_;
  PairShapes training_, test_;
  std::shared_ptr<PairNet> model_;
  NonLocalWatch watch_;
  TrainingAccuracy right_;
  ProgressLine* progress_;  // of evaluations; or null
  ReadAhead<Batch> batches_;
};

}  // namespace loci
