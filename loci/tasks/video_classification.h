// Classification of videos, as folders of frames, by a C2D or I3D residual network with or without non-local blocks
// (Wang, Girshick, Gupta and He 2018, "Non-local Neural Networks", section 4; docs/non-local.md).
//
// Legend: B clips of a micro-batch, C channels, T frames.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "loci/models/video_resnet.h"
#include "loci/tasks/class_accuracy.h"
#include "loci/tasks/non_local_watch.h"
#include "loci/tasks/video_data.h"
#include "loci/train/checkpoint_folder.h"
#include "loci/train/recipe.h"
#include "loci/train/task.h"

namespace loci {

class VideoClassificationPlan : public TaskPlan {
 public:
  void fields(ConfigFields& f) override;
  void check() const override;
  std::string unit() const override { return "clips"; }
  // Of ten classes and, without data.size and data.crop, of frames of 64 x 64.
  RunSize size(const BatchShape& batch, const RowOptimizerOptions& rows, bool bfloat16) const override;
  std::string data_settings() const override { return data.settings(); }
  std::unique_ptr<Task> make(const TaskInputs& inputs) const override;

  VideoResnetOptions model_for(int64_t classes) const;

  VideoTaskData data;
  VideoResnetOptions model;
};

std::unique_ptr<TaskPlan> video_classification_plan();

class VideoClassification : public Task {
 public:
  VideoClassification(const VideoClassificationPlan& plan, const TaskInputs& inputs);

  torch::nn::Module& module() override { return *model_; }
  std::vector<NamedParameter> dense_parameters() override { return model_->dense_parameters(); }
  std::vector<std::pair<TablePtr, RowOptimizerOptions>> tables() override { return {}; }
  at::Tensor loss(int64_t step, int64_t micro) override;
  std::string unit() const override { return plan_.unit(); }
  int64_t units_per_micro_batch() const override { return batch_.per_micro_batch(); }
  std::vector<Measure> measures() const override {
    return ClassAccuracy::measures(std::ssize(input_.classes), "test clip");
  }
  Evaluation evaluate() override;
  Account account(const Evaluation& evaluation, const AccountOptions& options) override;
  int64_t infer(int64_t position) override;
  void before_step(int64_t step, OptimizerSet&) override { watch_.before_step(step); }
  std::vector<TaskEvent> after_step(const StepMade& made, OptimizerSet&) override {
    return watch_.after_step(made.step);
  }
  nlohmann::json training_measures(bool) override { return right_.take(); }
  void start_from(const std::map<std::string, at::Tensor>& state, const std::string& who) override {
    model_->load(state, who);
  }
  std::vector<std::pair<std::string, at::Tensor>> extra_state() override { return {right_.state()}; }
  std::vector<std::pair<std::string, std::string>> files() override { return {{ImageInput::kFile, input_.save()}}; }
  std::string data_key() const override { return opened_->data.inventory.key(); }
  std::shared_ptr<const OpenedData> opened_data() const override { return opened_; }
  nlohmann::json data_facts() const override { return opened_->facts(); }

 private:
  VideoClassificationPlan plan_;
  BatchShape batch_;
  uint64_t seed_;
  std::shared_ptr<const OpenedClips> opened_;
  ImageInput input_;
  std::shared_ptr<VideoResnet> model_;
  int64_t multiply_adds_;  // of a window
  ClipFeed feed_;
  NonLocalWatch watch_;
  TrainingAccuracy right_;
  ProgressLine* progress_;  // of evaluations; or null
};

// A checkpoint's network alone, for clips without labels.
struct LoadedVideoClassifier {
  std::shared_ptr<VideoResnet> model;  // in evaluation mode
  ImageInput input;
  VideoTaskData data;  // how clips are read
};
// Throws Error (input) when the checkpoint is broken.
LoadedVideoClassifier load_video_classifier(const VideoClassificationPlan& plan, uint64_t seed,
                                            const CheckpointReader& checkpoint);

}  // namespace loci
