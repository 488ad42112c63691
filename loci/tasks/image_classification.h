// Classification of small images by a residual network, with or without a memory in one of its stages (the task for
// which Karimov et al. 2021, "CNN with large memory layers", claim a gain; docs/vision-memory.md).
//
// Legend: B images of a micro-batch, C channels.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "loci/models/resnet.h"
#include "loci/tasks/class_accuracy.h"
#include "loci/tasks/image_data.h"
#include "loci/tasks/memory_task.h"
#include "loci/tasks/non_local_watch.h"
#include "loci/train/checkpoint_folder.h"
#include "loci/train/recipe.h"
#include "loci/train/task.h"

namespace loci {

class ImageClassificationPlan : public TaskPlan {
 public:
  void fields(ConfigFields& f) override;
  void check() const override;
  std::string unit() const override { return "images"; }
  // Of as many classes as CIFAR-10 has, and, without data.size, of images as large.
  RunSize size(const BatchShape& batch, const RowOptimizerOptions& rows, bool bfloat16) const override;
  std::string data_settings() const override;
  std::unique_ptr<Task> make(const TaskInputs& inputs) const override;

  ResnetOptions model_for(int64_t classes) const;

  ImageTaskData data;
  ResnetOptions model;
};

std::unique_ptr<TaskPlan> image_classification_plan();

class ImageClassification : public MemoryTask {
 public:
  ImageClassification(const ImageClassificationPlan& plan, const TaskInputs& inputs);

  torch::nn::Module& module() override { return *model_; }
  std::vector<NamedParameter> dense_parameters() override { return model_->dense_parameters(); }
  at::Tensor loss(int64_t step, int64_t micro) override;
  std::string unit() const override { return plan_.unit(); }
  std::vector<Measure> measures() const override;
  Evaluation evaluate() override;
  Account account(const Evaluation& evaluation, const AccountOptions& options) override;
  int64_t infer(int64_t position) override;
  void before_step(int64_t step, OptimizerSet& optimizers) override;
  std::vector<TaskEvent> after_step(const StepMade& made, OptimizerSet& optimizers) override;
  nlohmann::json training_measures(bool whole) override;
  void start_from(const std::map<std::string, at::Tensor>& state, const std::string& who) override {
    model_->load(state, who);
  }
  std::vector<std::pair<std::string, at::Tensor>> extra_state() override;
  std::vector<std::pair<std::string, std::string>> files() override;
  std::string data_key() const override { return opened_->data.inventory.key(); }
  std::shared_ptr<const OpenedData> opened_data() const override { return opened_; }
  nlohmann::json data_facts() const override { return opened_->facts(); }

 private:
  ImageClassificationPlan plan_;
  std::shared_ptr<const OpenedImages> opened_;
  ImageInput input_;
  std::shared_ptr<Resnet> model_;
  ImageFeed feed_;
  NonLocalWatch non_local_watch_;
  TrainingAccuracy right_;
  ProgressLine* progress_;  // of evaluations; or null
};

// A checkpoint's network alone, for use without data.
struct LoadedImageClassifier {
  std::shared_ptr<Resnet> model;  // in evaluation mode
  ImageInput input;
  ImageOptions images;  // how they are read
};
// Throws Error (input) when the checkpoint is broken.
LoadedImageClassifier load_image_classifier(const ImageClassificationPlan& plan, uint64_t seed,
                                            const CheckpointReader& checkpoint);

}  // namespace loci
