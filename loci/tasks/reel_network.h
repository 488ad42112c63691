// Classification of images by a network whose weights are found among fixed random values, or by the same network with
// learned ones (models/reel_net.h): recipes/reels-mnist.
//
// Legend: B images of a micro-batch.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "loci/models/reel_net.h"
#include "loci/tasks/image_network_task.h"

namespace loci {

class ReelNetworkPlan : public TaskPlan {
 public:
  void fields(ConfigFields& f) override;
  void check() const override;
  std::string unit() const override { return "images"; }
  // Of ten classes, and, without data.size, of images of 32 x 32.
  RunSize size(const BatchShape& batch, const RowOptimizerOptions& rows, bool bfloat16) const override;
  std::string data_settings() const override { return data.settings(); }
  std::unique_ptr<Task> make(const TaskInputs& inputs) const override;

  ReelNetOptions model_for(const ImageShape& shape, int64_t classes) const;

  ImageTaskData data;
  ReelNetOptions model;

 private:
  ReelNetOptions assumed_model() const;
};

std::unique_ptr<TaskPlan> reel_network_plan();

class ReelNetwork : public ImageNetworkTask {
 public:
  ReelNetwork(const ReelNetworkPlan& plan, const TaskInputs& inputs);

  torch::nn::Module& module() override { return *network_; }
  std::vector<NamedParameter> dense_parameters() override { return network_->dense_parameters(); }
  std::vector<Measure> measures() const override;
  // details: images, interval, parameters, multiply_adds; of reels: reels, and moved_by_stage.
  Evaluation evaluate() override;
  Account account(const Evaluation& evaluation, const AccountOptions& options) override;
  void start_from(const std::map<std::string, at::Tensor>& state, const std::string& who) override {
    network_->load(state, who);
  }

 private:
  at::Tensor scores(const at::Tensor& images) override { return network_->forward(images); }

  std::shared_ptr<ReelNet> network_;
};

}  // namespace loci
