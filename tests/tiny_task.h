// For tests: a task of a few numbers with a dense weight, a table, counters and a file, trained in microseconds.
//
// Legend: T tokens, K reads of a token, D width, C channels.
#pragma once

#include <torch/nn/module.h>
#include <torch/torch.h>

#include <functional>
#include <limits>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "loci/base/random.h"
#include "loci/table/local_table.h"
#include "loci/train/task.h"

namespace loci {

struct TinyModule : torch::nn::Module {
  TinyModule(int64_t width, bool has_filter) {
    weight = register_parameter("weight", at::eye(width) * 0.5);
    mean = register_buffer("mean", at::zeros({width}));
    if (!has_filter) return;
    const at::Tensor start = at::linspace(-0.1, 0.1, width * kChannels * 9).view({width, kChannels, 3, 3});
    filter = register_parameter("filter", start.contiguous(at::MemoryFormat::ChannelsLast));
  }
  static constexpr int64_t kChannels = 2;
  at::Tensor weight, mean;
  at::Tensor filter;  // [D, C, 3, 3], channels last; or none
};

struct TinyOptions {
  int64_t width = 4;
  int64_t rows = 32;
  bool has_filter = false;          // a convolution too
  std::set<int64_t> bad_steps;      // the loss is NaN
  std::set<int64_t> bad_gradients;  // the loss is 0, its gradient NaN
  bool bad_evaluation = false;
  std::function<void()> before_evaluation;   // for signals
  std::function<void(int64_t)> before_step;  // for signals
  std::function<std::vector<TaskEvent>(const StepMade&)> after_step;
  std::function<void()> during_saving;  // for signals
  std::string data_key = "tiny";
};

class TinyTask : public Task {
 public:
  TinyTask(TinyOptions options, const TaskInputs& inputs)
      : options_(std::move(options)),
        inputs_(inputs),
        module_(options_.width, options_.has_filter),
        table_(std::make_shared<LocalTable>("tiny.values", options_.rows, options_.width)),
        use_(table_->register_use()),
        steps_seen_(at::zeros({1}, at::kLong)) {
    table_->store().initialise_normal(inputs.seed, 0.1);
  }

  torch::nn::Module& module() override { return module_; }
  std::vector<NamedParameter> dense_parameters() override {
    std::vector<NamedParameter> parameters = {{.name = "weight", .value = module_.weight}};
    if (options_.has_filter) parameters.push_back({.name = "filter", .value = module_.filter});
    return parameters;
  }
  std::vector<std::pair<TablePtr, RowOptimizerOptions>> tables() override { return {{table_, inputs_.rows}}; }
  std::string unit() const override { return "images"; }
  int64_t units_per_micro_batch() const override { return inputs_.batch.per_micro_batch(); }
  std::vector<Measure> measures() const override {
    return {{"distance", 3, true, "cm", "how far it is off"}, {"hits", 0, false, "%", "how often it is right"}};
  }

  at::Tensor loss(int64_t step, int64_t micro) override {
    if (options_.bad_steps.count(step) > 0) {
      return module_.weight.sum() * std::numeric_limits<double>::quiet_NaN();
    }
    if (options_.bad_gradients.count(step) > 0) return (module_.weight.sum() * 0).sqrt();
    steps_seen_ += 1;
    return loss_of(inputs_.units_before + step * inputs_.batch.batch + micro * inputs_.batch.per_micro_batch(),
                   "train");
  }
  Evaluation evaluate() override {
    if (options_.before_evaluation) options_.before_evaluation();
    const double value =
        options_.bad_evaluation ? std::numeric_limits<double>::infinity() : loss_of(0, "validation").item<double>();
    return {{value, 0.5}, {{"inner", {1, 2}}}};
  }
  int64_t infer(int64_t position) override {
    loss_of(position, "validation");
    return units_per_micro_batch();
  }
  void before_step(int64_t step, OptimizerSet&) override {
    if (options_.before_step) options_.before_step(step);
  }
  std::vector<TaskEvent> after_step(const StepMade& made, OptimizerSet&) override {
    return options_.after_step ? options_.after_step(made) : std::vector<TaskEvent>{};
  }
  nlohmann::json training_measures(bool whole) override { return {{"hits", whole ? nlohmann::json(0.5) : nullptr}}; }
  std::vector<std::pair<std::string, at::Tensor>> extra_state() override { return {{"0.reads", steps_seen_}}; }
  std::vector<std::pair<std::string, std::string>> files() override {
    if (options_.during_saving) options_.during_saving();
    return {{"alphabet.txt", "abc"}};
  }
  std::string data_key() const override { return options_.data_key; }

 private:
  // Rows and inputs come by counter; the target is the input turned around.
  at::Tensor loss_of(int64_t position, const std::string& stream) {
    const int64_t tokens = inputs_.batch.per_micro_batch();
    const int64_t width = options_.width;
    const CounterRandom random(inputs_.seed, stream);
    at::Tensor x = at::empty({tokens, width});             // [T, D]
    at::Tensor index = at::empty({tokens, 2}, at::kLong);  // [T, K]
    for (int64_t t = 0; t < tokens; ++t) {
      const auto place = static_cast<uint64_t>((position + t) * (width + 2));
      for (int64_t d = 0; d < width; ++d) x[t][d] = random.normal(place + static_cast<uint64_t>(d));
      for (int64_t k = 0; k < 2; ++k) {
        index[t][k] = static_cast<int64_t>(
            random.below(place + static_cast<uint64_t>(width + k), static_cast<uint64_t>(options_.rows)));
      }
    }
    const at::Tensor read = table_->read(index, at::full({tokens, 2}, 0.5), use_);  // [T, D]
    at::Tensor y = at::mm(x, module_.weight) + read;
    if (options_.has_filter) {
      const at::Tensor images = x.view({tokens, 1, 1, width}).expand({tokens, TinyModule::kChannels, 3, width});
      y = y + at::conv2d(images, module_.filter, {}, 1, 1).mean({2, 3});
    }
    if (module_.is_training()) module_.mean.mul_(0.9).add_(x.mean(0), 0.1);
    return (y - x.flip(1)).square().mean();
  }

  TinyOptions options_;
  TaskInputs inputs_;
  TinyModule module_;
  std::shared_ptr<LocalTable> table_;
  int64_t use_;
  at::Tensor steps_seen_;
};

class TinyPlan : public TaskPlan {
 public:
  void fields(ConfigFields& f) override { f.section("model", model); }
  std::string unit() const override { return "images"; }
  bool can_continue() const override { return model.width != 5; }
  RunSize size(const BatchShape& batch, const RowOptimizerOptions&, bool) const override {
    return {.parameters_dense = model.width * model.width,
            .parameters_table = model.rows * model.width,
            .units_per_step = batch.batch,
            .memory = {{"table", 4 * model.rows * model.width}}};
  }
  std::unique_ptr<Task> make(const TaskInputs& inputs) const override {
    TinyOptions options = hooks;
    options.width = model.width;
    options.rows = model.rows;
    return std::make_unique<TinyTask>(options, inputs);
  }

  struct Noise {
    double deviation = 0;
    void fields(ConfigFields& f) { f.field("deviation", deviation, "of nothing at all", {.minimum = 0}); }
  };
  struct Model {
    int64_t width = 4;
    int64_t rows = 32;
    bool has_noise = false;
    Noise noise;
    void fields(ConfigFields& f) {
      f.field("width", width, "width of a row", {.minimum = 1});
      f.field("rows", rows, "rows of the table", {.minimum = 1});
      f.optional_section("noise", has_noise, noise);
    }
  } model;
  inline static TinyOptions hooks;  // what the tests in this process want to happen
};

inline const std::vector<TaskKind>& tiny_tasks() {
  static const std::vector<TaskKind> tasks = {
      {"tiny", [] { return std::unique_ptr<TaskPlan>(std::make_unique<TinyPlan>()); }}};
  return tasks;
}

}  // namespace loci
