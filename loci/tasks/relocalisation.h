// Camera relocalisation: the pose of a camera from its image, by regression with or without a memory (the task for
// which the abstract of Karimov et al. 2021, "CNN with large memory layers", claims better speed and accuracy;
// docs/vision-memory.md). Medians of training frames stand beside those of test frames: their difference is what was
// learned by heart alone.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "loci/data/epoch_order.h"
#include "loci/data/poses/pose_metrics.h"
#include "loci/models/posenet.h"
#include "loci/tasks/image_data.h"
#include "loci/tasks/memory_task.h"
#include "loci/tasks/pose_data.h"
#include "loci/train/checkpoint_folder.h"
#include "loci/train/read_ahead.h"
#include "loci/train/recipe.h"
#include "loci/train/task.h"

namespace loci {

class RelocalisationPlan : public TaskPlan {
 public:
  void fields(ConfigFields& f) override;
  void check() const override;
  std::string unit() const override { return "images"; }
  RunSize size(const BatchShape& batch, const RowOptimizerOptions& rows, bool bfloat16) const override;
  bool needs_data() const override { return data.kind == PoseDataKind::sequence; }
  std::string data_settings() const override { return data.settings(); }
  std::unique_ptr<Task> make(const TaskInputs& inputs) const override;

  PosenetOptions model_of_data() const;

  PoseTaskData data;
  PosenetOptions model;
};

std::unique_ptr<TaskPlan> relocalisation_plan();

class Relocalisation : public MemoryTask {
 public:
  Relocalisation(const RelocalisationPlan& plan, const TaskInputs& inputs);

  torch::nn::Module& module() override { return *model_; }
  std::vector<NamedParameter> dense_parameters() override { return model_->dense_parameters(); }
  at::Tensor loss(int64_t step, int64_t micro) override;
  std::string unit() const override { return plan_.unit(); }
  std::vector<Measure> measures() const override;
  Evaluation evaluate() override;
  std::vector<Baseline> baselines(int64_t steps) override;
  Account account(const Evaluation& evaluation, const AccountOptions& options) override;
  int64_t infer(int64_t position) override;
  std::vector<std::pair<std::string, std::string>> files() override { return {{PixelInput::kFile, input_.save()}}; }
  std::string data_key() const override { return opened_->key; }
  std::shared_ptr<const OpenedData> opened_data() const override { return opened_; }
  nlohmann::json data_facts() const override { return opened_->facts(); }

 private:
  struct Batch {
    at::Tensor images, position, rotation;
  };
  Batch training_batch(int64_t position) const;  // position = step * accumulation + micro
  std::vector<Pose> predict(std::span<const int64_t> frames) const;

  RelocalisationPlan plan_;
  std::shared_ptr<const OpenedPoses> opened_;
  PixelInput input_;
  std::shared_ptr<Posenet> model_;
  EpochOrder order_;
  ProgressLine* progress_;  // of evaluations; or null
  ReadAhead<Batch> batches_;
};

// A checkpoint's network alone, for use without data.
struct LoadedPosenet {
  std::shared_ptr<Posenet> model;  // in evaluation mode
  PixelInput input;
  ImageOptions images;  // how they are read
};
// Throws Error (input) when the checkpoint is broken.
LoadedPosenet load_posenet(const RelocalisationPlan& plan, uint64_t seed, const CheckpointReader& checkpoint);

}  // namespace loci
