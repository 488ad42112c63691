// Detection with keypoints and masks in miniature: shapes on clutter that are made anew for every step
// (data/procedural/shapes_keypoints.h) and a detector with or without non-local blocks (models/center_detector.h),
// after the second half of Wang, Girshick, Gupta and He 2018 ("Non-local Neural Networks"; recipes/non-local-shapes).
//
// Legend: B images of a batch, n instances.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "loci/data/procedural/shapes_keypoints.h"
#include "loci/models/center_detector.h"
#include "loci/tasks/image_data.h"
#include "loci/tasks/non_local_watch.h"
#include "loci/train/checkpoint_folder.h"
#include "loci/train/read_ahead.h"
#include "loci/train/task.h"

namespace loci {

// [data]
struct ShapesTaskData {
  ShapesOptions shapes;
  int64_t test_images = 500;  // the same ones for every seed
  void fields(ConfigFields& f);
};

class ShapesKeypointsPlan : public TaskPlan {
 public:
  void fields(ConfigFields& f) override;
  void check() const override { model.check(); }
  std::string unit() const override { return "images"; }
  RunSize size(const BatchShape& batch, const RowOptimizerOptions& rows, bool bfloat16) const override;
  bool needs_data() const override { return false; }
  std::unique_ptr<Task> make(const TaskInputs& inputs) const override;

  ShapesTaskData data;
  CenterDetectorOptions model;
};

std::unique_ptr<TaskPlan> shapes_keypoints_plan();

class ShapesKeypointsTask : public Task {
 public:
  ShapesKeypointsTask(const ShapesKeypointsPlan& plan, const TaskInputs& inputs);

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
  void start_from(const std::map<std::string, at::Tensor>& state, const std::string& who) override {
    model_->load(state, who);
  }
  std::vector<std::pair<std::string, std::string>> files() override;
  std::string data_key() const override;

 private:
  struct Batch {
    at::Tensor images;  // [B, 3, 128, 128]
    std::vector<std::vector<Instance>> instances;
    CenterTargets targets;
  };
  Batch batch_of(const ShapesKeypoints& shapes, int64_t first, int64_t count) const;
  Batch test_batch(int64_t index) const;
  int64_t test_batches() const;

  ShapesKeypointsPlan plan_;
  BatchShape batch_;
  ShapesKeypoints training_, test_;
  std::shared_ptr<CenterDetector> model_;
  NonLocalWatch watch_;
  ProgressLine* progress_;  // of evaluations; or null
  ReadAhead<Batch> batches_;
};

// A checkpoint's network alone, for images of others.
struct LoadedCenterDetector {
  std::shared_ptr<CenterDetector> model;  // in evaluation mode
  PixelInput input;
  ImageOptions images;  // how they are read
};
// Throws Error (input) when the checkpoint is broken.
LoadedCenterDetector load_center_detector(const ShapesKeypointsPlan& plan, uint64_t seed,
                                          const CheckpointReader& checkpoint);

// {class, score, box: [x0, y0, x1, y1], keypoints: [[x, y], ...], mask: run lengths of pixels out of it and in it in
// turn, row by row, from a length of pixels out of it}.
nlohmann::json detection_json(const Detection& detection);

}  // namespace loci
