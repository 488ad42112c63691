// Classification of images by a network of one ODE block (models/ode_net.h): recipes/ode-mnist.
//
// Legend: B images of a micro-batch.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "loci/models/ode_net.h"
#include "loci/tasks/image_network_task.h"
#include "loci/tasks/ode_evaluations.h"

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

class OdeImages : public ImageNetworkTask {
 public:
  OdeImages(const OdeImagesPlan& plan, const TaskInputs& inputs);

  torch::nn::Module& module() override { return *model_; }
  std::vector<NamedParameter> dense_parameters() override { return model_->dense_parameters(); }
  at::Tensor loss(int64_t step, int64_t micro) override;
  std::vector<Measure> measures() const override;
  Evaluation evaluate() override;
  Account account(const Evaluation& evaluation, const AccountOptions& options) override;
  nlohmann::json training_measures(bool whole) override;
  std::vector<std::pair<std::string, at::Tensor>> extra_state() override {
    auto state = ImageNetworkTask::extra_state();
    state.push_back(evaluations_.state());
    return state;
  }

 private:
  at::Tensor scores(const at::Tensor& images) override { return model_->forward(images); }

  std::shared_ptr<OdeNet> model_;
  OdeEvaluations evaluations_;  // of training
};

}  // namespace loci
