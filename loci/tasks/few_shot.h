// Classes from a few drawings of each (models/few_shot_net.h), with gradients through all of the support set or through
// a subset of it (nn/small/subset_backprop.h): recipes/lite-omniglot.
//
// Legend: K ways (characters of a task), N support drawings of a task, Q its queries, H support drawings with gradient.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "loci/data/image/character_folder.h"
#include "loci/data/image/episodes.h"
#include "loci/models/few_shot_net.h"
#include "loci/tasks/class_accuracy.h"
#include "loci/train/task.h"

namespace loci {

// [data]
struct FewShotData {
  CharacterFolderOptions folder;
  bool turned = true;  // each character of a training task is turned by a random number of quarters
  void fields(ConfigFields& f);
};

// [test]
struct TestEpisodes {
  EpisodeOptions episode;
  int64_t tasks = 200;
  void fields(ConfigFields& f);
};

// [subset]
struct SubsetSettings {
  int64_t kept = 0;    // H; 0: N
  int64_t chunk = 50;  // drawings of a call without gradient
  bool scale = true;
  void fields(ConfigFields& f);

  SubsetOptions of(int64_t support) const { return {kept == 0 ? support : kept, chunk, scale}; }
};

class FewShotPlan : public TaskPlan {
 public:
  void fields(ConfigFields& f) override;
  void check() const override;
  std::string unit() const override { return "tasks"; }
  // Without data.size, of drawings of 105 x 105.
  RunSize size(const BatchShape& batch, const RowOptimizerOptions& rows, bool bfloat16) const override;
  std::string data_settings() const override { return character_settings(data.folder); }
  std::unique_ptr<Task> make(const TaskInputs& inputs) const override;

  FewShotNetOptions model_for(const ImageShape& shape) const;

  FewShotData data;
  EpisodeOptions episodes;  // [episodes], of training
  TestEpisodes test;
  FewShotNetOptions model;
  SubsetSettings subset;

 private:
  FewShotNetOptions assumed_model() const;
};

std::unique_ptr<TaskPlan> few_shot_plan();

struct OpenedCharacters : OpenedData {
  CharacterSets data;
};

class FewShot : public Task {
 public:
  FewShot(const FewShotPlan& plan, const TaskInputs& inputs);

  torch::nn::Module& module() override { return *network_; }
  std::vector<NamedParameter> dense_parameters() override { return network_->dense_parameters(); }
  std::vector<std::pair<TablePtr, RowOptimizerOptions>> tables() override { return {}; }
  // The mean over the tasks of a micro-batch of their mean cross-entropy of a query.
  at::Tensor loss(int64_t step, int64_t micro) override;
  std::string unit() const override { return plan_.unit(); }
  int64_t units_per_micro_batch() const override { return batch_.per_micro_batch(); }
  std::vector<Measure> measures() const override;
  // Test tasks are the same for every seed. details: tasks, queries, accuracy_interval (95 %, from the spread of the
  // tasks), parameters, and of a run that trained memory_beyond_start: bytes between the process before its first step
  // and its peak since then.
  Evaluation evaluate() override;
  Account account(const Evaluation& evaluation, const AccountOptions& options) override;
  int64_t infer(int64_t position) override;
  nlohmann::json training_measures(bool) override { return right_.take(); }
  std::vector<std::pair<std::string, at::Tensor>> extra_state() override { return {right_.state()}; }
  std::string data_key() const override { return opened_->data.inventory.key(); }
  std::shared_ptr<const OpenedData> opened_data() const override { return opened_; }
  nlohmann::json data_facts() const override;

 private:
  struct Drawn {
    at::Tensor support, queries;  // [N or Q, channels, height, width], ink 1, ground 0
    at::Tensor labels;            // [Q] int64
  };
  static Drawn drawn(const CharacterDrawings& data, const EpisodeOptions& options, const Episode& episode);
  at::Tensor test_logits(const Drawn& task) const;

  FewShotPlan plan_;
  BatchShape batch_;
  uint64_t seed_;
  std::shared_ptr<const OpenedCharacters> opened_;
  EpisodeSampler training_, test_;
  std::shared_ptr<FewShotNet> network_;
  TrainingAccuracy right_;
  ProgressLine* progress_;    // of evaluations; or null
  int64_t bytes_before_ = 0;  // of the process before the first step; 0: none was made
};

}  // namespace loci
