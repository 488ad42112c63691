// Reconstruction of images through a narrow code: a plain one, rows of a memory, or codes of vector quantisation (one
// of the tasks that the abstract of Karimov et al. 2021, "CNN with large memory layers", names; docs/vision-memory.md).
//
//   loss = mean over pixels and channels of (x - x^)^2 + what a quantiser adds, x = value / 255
//   PSNR = -10 log10 of that mean over all test images                                              [dB]
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "loci/models/autoencoder.h"
#include "loci/tasks/image_data.h"
#include "loci/tasks/memory_task.h"
#include "loci/train/checkpoint_folder.h"
#include "loci/train/recipe.h"
#include "loci/train/task.h"

namespace loci {

class ReconstructionPlan : public TaskPlan {
 public:
  void fields(ConfigFields& f) override;
  void check() const override;
  std::string unit() const override { return "images"; }
  RunSize size(const BatchShape& batch, const RowOptimizerOptions& rows, bool bfloat16) const override;
  std::string data_settings() const override { return data.settings(); }
  std::unique_ptr<Task> make(const TaskInputs& inputs) const override;

  AutoencoderOptions model_of_data() const;

  ImageTaskData data;
  AutoencoderOptions model;
};

std::unique_ptr<TaskPlan> reconstruction_plan();

class ReconstructionTask : public MemoryTask {
 public:
  ReconstructionTask(const ReconstructionPlan& plan, const TaskInputs& inputs);

  torch::nn::Module& module() override { return *model_; }
  std::vector<NamedParameter> dense_parameters() override { return model_->dense_parameters(); }
  at::Tensor loss(int64_t step, int64_t micro) override;
  std::string unit() const override { return plan_.unit(); }
  std::vector<Measure> measures() const override;
  Evaluation evaluate() override;
  Account account(const Evaluation& evaluation, const AccountOptions& options) override;
  int64_t infer(int64_t position) override;
  nlohmann::json training_measures(bool whole) override;
  std::vector<std::pair<std::string, at::Tensor>> extra_state() override;
  std::vector<std::pair<std::string, std::string>> files() override { return {{ImageInput::kFile, input_.save()}}; }
  std::string data_key() const override { return opened_->data.inventory.key(); }
  std::shared_ptr<const OpenedData> opened_data() const override { return opened_; }
  nlohmann::json data_facts() const override { return opened_->facts(); }

 private:
  ReconstructionPlan plan_;
  std::shared_ptr<const OpenedImages> opened_;
  ImageInput input_;
  std::shared_ptr<Autoencoder> model_;
  ImageFeed feed_;
  at::Tensor replaced_;     // [2] int64: codes that were replaced, and steps, since the last log
  ProgressLine* progress_;  // of evaluations; or null
};

// A checkpoint's network alone, for use without data.
struct LoadedAutoencoder {
  std::shared_ptr<Autoencoder> model;  // in evaluation mode
  ImageInput input;
  ImageOptions images;  // how they are read
};
// Throws Error (input) when the checkpoint is broken.
LoadedAutoencoder load_autoencoder(const ReconstructionPlan& plan, uint64_t seed, const CheckpointReader& checkpoint);

}  // namespace loci
