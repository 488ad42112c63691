// Classification of images by a network of signs, by the same network of real numbers, or by a packed one
// (models/binary_net.h, models/packed_net.h): recipes/bnn-mnist.
//
// Legend: B images of a micro-batch.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "loci/models/binary_net.h"
#include "loci/models/packed_net.h"
#include "loci/tasks/image_network_task.h"

namespace loci {

class BinaryNetworkPlan : public TaskPlan {
 public:
  void fields(ConfigFields& f) override;
  void check() const override;
  std::string unit() const override { return "images"; }
  // Of ten classes, and, without data.size, of images of 32 x 32.
  RunSize size(const BatchShape& batch, const RowOptimizerOptions& rows, bool bfloat16) const override;
  std::string data_settings() const override { return data.settings(); }
  std::unique_ptr<Task> make(const TaskInputs& inputs) const override;
  std::vector<std::pair<std::string, at::Tensor>> pack(const CheckpointReader& checkpoint) override;

  BinaryNetOptions model_for(const ImageShape& shape, int64_t classes) const;

  ImageTaskData data;
  BinaryNetOptions model;

 private:
  BinaryNetOptions assumed_model() const;
};

std::unique_ptr<TaskPlan> binary_network_plan();

class BinaryNetwork : public ImageNetworkTask {
 public:
  BinaryNetwork(const BinaryNetworkPlan& plan, const TaskInputs& inputs);

  torch::nn::Module& module() override;
  std::vector<NamedParameter> dense_parameters() override;
  std::vector<Measure> measures() const override;
  // details: images, parameters, bytes, multiply_adds, and `scores`, the sum of the bits of all scores: equal sums are
  // equal scores for every test image.
  Evaluation evaluate() override;
  Account account(const Evaluation& evaluation, const AccountOptions& options) override;

 private:
  at::Tensor scores(const at::Tensor& images) override;
  at::Tensor loss_of(const at::Tensor& scores, const at::Tensor& labels) const override;

  BinaryNetOptions model_;
  std::shared_ptr<BinaryNet> network_;  // one of two
  std::shared_ptr<PackedNet> packed_;
};

}  // namespace loci
