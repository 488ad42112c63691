// Which things are related, from several views of each, some missing or worthless: things that were never trained on
// must find those of their group (models/view_net.h, tasks/view_data.h; recipes/views-items, recipes/views-words).
//
// Legend: B pairs of a micro-batch, K negatives, N things, W warm ones, V views, D width of a thing's vector.
//
//   a pair      a warm thing, another one of its group, and K of other groups
//   loss        mean over them of log(1 + exp(-t score)), t = 1 for the related one, else -1
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "loci/data/epoch_order.h"
#include "loci/models/view_net.h"
#include "loci/tasks/view_data.h"
#include "loci/train/task.h"

namespace loci {

class ViewsPlan : public TaskPlan {
 public:
  void fields(ConfigFields& f) override;
  void check() const override;
  std::string unit() const override { return "pairs"; }
  // Without the data of a folder.
  RunSize size(const BatchShape& batch, const RowOptimizerOptions& rows, bool bfloat16) const override;
  bool needs_data() const override { return data.kind == ViewDataKind::words; }
  std::string data_settings() const override;
  std::unique_ptr<Task> make(const TaskInputs& inputs) const override;

  ViewNetOptions model_of_data() const;

  ViewTaskData data;
  ViewNetOptions model;
};

std::unique_ptr<TaskPlan> views_plan();

class Views : public Task {
 public:
  Views(const ViewsPlan& plan, const TaskInputs& inputs);

  torch::nn::Module& module() override { return *model_; }
  std::vector<NamedParameter> dense_parameters() override { return model_->dense_parameters(); }
  std::vector<std::pair<TablePtr, RowOptimizerOptions>> tables() override;
  at::Tensor loss(int64_t step, int64_t micro) override;
  std::string unit() const override { return plan_.unit(); }
  int64_t units_per_micro_batch() const override { return batch_.per_micro_batch(); }
  // precision, with all views and with at most two and one; clean_mass where it is known which views are.
  std::vector<Measure> measures() const override;
  Evaluation evaluate() override;
  std::vector<Baseline> baselines(int64_t steps) override;
  Account account(const Evaluation& evaluation, const AccountOptions& options) override;
  int64_t infer(int64_t position) override;
  std::string data_key() const override { return opened_->key; }
  std::shared_ptr<const OpenedData> opened_data() const override { return opened_; }
  nlohmann::json data_facts() const override;

  // The things of pair `position` of training: related ones, then K of other groups.
  std::vector<int64_t> pair(int64_t position) const;

 private:
  std::pair<at::Tensor, at::Tensor> encode(int64_t first, int64_t count, const at::Tensor& mask) const;

  ViewsPlan plan_;
  BatchShape batch_;
  RowOptimizerOptions rows_;
  uint64_t seed_;
  std::shared_ptr<const OpenedViews> opened_;
  std::shared_ptr<ViewNet> model_;
  EpochOrder order_;
};

}  // namespace loci
