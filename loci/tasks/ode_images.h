// Classification of images by a network of one ODE block (models/ode_net.h): recipes/ode-mnist.
//
// Legend: B images of a micro-batch.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "loci/models/ode_net.h"
#include "loci/tasks/class_accuracy.h"
#include "loci/tasks/image_data.h"
#include "loci/tasks/ode_evaluations.h"
#include "loci/train/task.h"

namespace loci {

class OdeImagesPlan : public TaskPlan {
 public:
  void fields(ConfigFields& f) override;
  void check() const override;
  std::string unit() const override { return "images"; }
  // Of ten classes, and, without data.size, of images of 32 x 32.
  RunSize size(const BatchShape& batch, const RowOptimizerOptions& rows, bool bfloat16) const override;
  std::string data_settings() const override { return data.settings(); }
  std::unique_ptr<Task> make(const TaskInputs& inputs) const override;

  OdeNetOptions model_for(const ImageShape& shape, int64_t classes) const;

  ImageTaskData data;
  OdeNetOptions model;

 private:
  OdeNetOptions assumed_model() const;
};

std::unique_ptr<TaskPlan> ode_images_plan();

class OdeImages : public Task {
 public:
  OdeImages(const OdeImagesPlan& plan, const TaskInputs& inputs);

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
  nlohmann::json training_measures(bool whole) override;
  std::vector<std::pair<std::string, at::Tensor>> extra_state() override {
    return {right_.state(), evaluations_.state()};
  }
  std::vector<std::pair<std::string, std::string>> files() override { return {{ImageInput::kFile, input_.save()}}; }
  std::string data_key() const override { return opened_->data.inventory.key(); }
  std::shared_ptr<const OpenedData> opened_data() const override { return opened_; }
  nlohmann::json data_facts() const override { return opened_->facts(); }

 private:
  OdeImagesPlan plan_;
  BatchShape batch_;
  std::shared_ptr<const OpenedImages> opened_;
  ImageInput input_;
  std::shared_ptr<OdeNet> model_;
  ImageFeed feed_;
  TrainingAccuracy right_;
  OdeEvaluations evaluations_;  // of training
  ProgressLine* progress_;      // of evaluations; or null
};

}  // namespace loci
