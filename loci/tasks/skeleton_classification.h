// Classification of movements of skeletons by a small temporal network whose middle may relate joints and frames
// (models/skeleton_net.h): real clips for non-local blocks over time, space (joints) and both.
//
// Legend: B clips of a batch, T frames, J joints.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "loci/data/epoch_order.h"
#include "loci/data/video/skeleton_file.h"
#include "loci/models/skeleton_net.h"
#include "loci/tasks/class_accuracy.h"
#include "loci/tasks/non_local_watch.h"
#include "loci/train/read_ahead.h"
#include "loci/train/task.h"

namespace loci {

// [data]
struct SkeletonTaskData {
  int64_t frames = 32;         // T that each clip is resampled to
  double shortest_part = 0.8;  // a part of a training clip, at least this share of it, is drawn
  double noise = 0.02;         // added to the joints of training clips; 1 is the body's height
  void fields(ConfigFields& f);
};

class SkeletonClassificationPlan : public TaskPlan {
 public:
  void fields(ConfigFields& f) override;
  void check() const override;
  std::string unit() const override { return "clips"; }
  // Of 14 classes and 15 joints, as J-HMDB has.
  RunSize size(const BatchShape& batch, const RowOptimizerOptions& rows, bool bfloat16) const override;
  std::unique_ptr<Task> make(const TaskInputs& inputs) const override;

  SkeletonNetOptions model_for(int64_t classes, int64_t joints) const;

  SkeletonTaskData data;
  SkeletonNetOptions model;
};

std::unique_ptr<TaskPlan> skeleton_classification_plan();

struct OpenedSkeletons : OpenedData {
  SkeletonClips data;
};

class SkeletonClassification : public Task {
 public:
  SkeletonClassification(const SkeletonClassificationPlan& plan, const TaskInputs& inputs);

  torch::nn::Module& module() override { return *model_; }
  std::vector<NamedParameter> dense_parameters() override { return model_->dense_parameters(); }
  std::vector<std::pair<TablePtr, RowOptimizerOptions>> tables() override { return {}; }
  at::Tensor loss(int64_t step, int64_t micro) override;
  std::string unit() const override { return plan_.unit(); }
  int64_t units_per_micro_batch() const override { return batch_.per_micro_batch(); }
  std::vector<Measure> measures() const override { return ClassAccuracy::measures(classes(), "test clip"); }
  Evaluation evaluate() override;
  Account account(const Evaluation& evaluation, const AccountOptions& options) override;
  int64_t infer(int64_t position) override;
  void before_step(int64_t step, OptimizerSet&) override { watch_.before_step(step); }
  std::vector<TaskEvent> after_step(const StepMade& made, OptimizerSet&) override {
    return watch_.after_step(made.step);
  }
  nlohmann::json training_measures(bool) override { return right_.take(); }
  std::vector<std::pair<std::string, at::Tensor>> extra_state() override { return {right_.state()}; }
  // The names of classes and the number of joints.
  std::vector<std::pair<std::string, std::string>> files() override;
  std::string data_key() const override { return opened_->data.inventory.key(); }
  std::shared_ptr<const OpenedData> opened_data() const override { return opened_; }
  nlohmann::json data_facts() const override;

 private:
  struct Batch {
    at::Tensor maps;    // [B, 2, T, J]
    at::Tensor labels;  // [B] int64
  };
  int64_t classes() const { return std::ssize(opened_->data.classes); }
  Batch empty(int64_t clips) const;
  Batch training_at(int64_t position) const;  // position = step * accumulation + micro
  Batch test_batch(int64_t index) const;
  int64_t test_batches() const;

  SkeletonClassificationPlan plan_;
  BatchShape batch_;
  uint64_t seed_;
  std::shared_ptr<const OpenedSkeletons> opened_;
  std::shared_ptr<SkeletonNet> model_;
  EpochOrder order_;
  NonLocalWatch watch_;
  TrainingAccuracy right_;
  ReadAhead<Batch> batches_;
};

}  // namespace loci
