// Flows of points by a network of one ODE block (models/ode_net.h): a reflection of the line, or which of two annuli a
// point lies in (recipes/ode-reflection, recipes/ode-annuli). Samples are made anew for every step.
//
// Legend: B samples of a batch, D numbers of a point.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "loci/data/procedural/ode_points.h"
#include "loci/models/ode_net.h"
#include "loci/tasks/class_accuracy.h"
#include "loci/tasks/ode_evaluations.h"
#include "loci/train/task.h"

namespace loci {

// [data]
struct OdePointsData {
  OdeSet set = OdeSet::annuli;
  int64_t test_samples = 4096;  // the same ones for every seed
  void fields(ConfigFields& f);
};

class OdePointsPlan : public TaskPlan {
 public:
  void fields(ConfigFields& f) override;
  void check() const override { model_of_data().check(); }
  std::string unit() const override { return "samples"; }
  RunSize size(const BatchShape& batch, const RowOptimizerOptions& rows, bool bfloat16) const override;
  bool needs_data() const override { return false; }
  std::unique_ptr<Task> make(const TaskInputs& inputs) const override;

  OdeNetOptions model_of_data() const;

  OdePointsData data;
  OdeNetOptions model;
};

std::unique_ptr<TaskPlan> ode_points_plan();

class OdePointsTask : public Task {
 public:
  OdePointsTask(const OdePointsPlan& plan, const TaskInputs& inputs);

  torch::nn::Module& module() override { return *model_; }
  std::vector<NamedParameter> dense_parameters() override { return model_->dense_parameters(); }
  std::vector<std::pair<TablePtr, RowOptimizerOptions>> tables() override { return {}; }
  at::Tensor loss(int64_t step, int64_t micro) override;
  std::string unit() const override { return plan_.unit(); }
  int64_t units_per_micro_batch() const override { return batch_.per_micro_batch(); }
  // Reflection: error, evaluations. Annuli: accuracy, loss, evaluations.
  std::vector<Measure> measures() const override;
  Evaluation evaluate() override;
  // With pictures: the flow of the first test samples.
  Account account(const Evaluation& evaluation, const AccountOptions& options) override;
  int64_t infer(int64_t position) override;
  nlohmann::json training_measures(bool whole) override;
  std::vector<std::pair<std::string, at::Tensor>> extra_state() override { return {evaluations_.state()}; }
  std::string data_key() const override { return std::string("ode_points: ") + OdePoints::name(plan_.data.set); }

 private:
  struct Batch {
    at::Tensor points;  // [B, D]
    at::Tensor labels;  // [B] int64
  };
  bool reflects() const { return plan_.data.set == OdeSet::reflection; }
  Batch batch_of(const OdePoints& points, int64_t first, int64_t count) const;
  Batch test_batch(int64_t index) const;
  int64_t test_batches() const;
  nlohmann::json flow(int64_t count) const;

  OdePointsPlan plan_;
  BatchShape batch_;
  OdePoints training_, test_;
  std::shared_ptr<OdeNet> model_;
  OdeEvaluations evaluations_;  // of training
};

}  // namespace loci
