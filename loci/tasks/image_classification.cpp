// Legend: B images of a batch, C channels.
#include "loci/tasks/image_classification.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/Reduction.h>
#include <ATen/ops/cross_entropy_loss.h>
#include <ATen/ops/topk.h>
#include <ATen/ops/zeros.h>

#include <algorithm>

#include "loci/base/check.h"
#include "loci/base/stop_signal.h"
#include "loci/train/table_home.h"

namespace loci {
namespace {

constexpr int64_t kBest = 5;  // classes of the measure top_5

}  // namespace

std::unique_ptr<Task> ImageClassificationPlan::make(const TaskInputs& inputs) const {
  return std::make_unique<ImageClassification>(*this, inputs);
}

std::unique_ptr<TaskPlan> image_classification_plan() {
  return std::make_unique<ImageClassificationPlan>();
}

ImageClassification::ImageClassification(const ImageClassificationPlan& plan, const TaskInputs& inputs)
    : MemoryTask(inputs),
      plan_(plan),
      opened_(open_images(plan.data, inputs)),
      input_(input_of_run(opened_->input, inputs)),
      model_(std::make_shared<Resnet>(plan.model_for(std::ssize(input_.classes)), inputs.seed, inputs.tables)),
      feed_(opened_, input_, plan.data.augment, batch_shape(), inputs.seed),
      non_local_watch_(model_->non_local()),
      right_(at::zeros({2}, at::kLong)),
      progress_(inputs.progress) {
  watch(model_->memory(), model_->memory_layer());
  const ResnetMemoryOptions& memory = plan.model.memory;
  if (plan.model.has_memory && memory.has_reinitialise) {
    reinitialise(memory.reinitialise, memory.row_deviation(plan.model.stage_channels(memory.stage - 1)));
  }
}

at::Tensor ImageClassification::loss(int64_t step, int64_t micro) {
  const ImageBatch batch = feed_.training(step, micro);
  const auto observed = observe();
  const at::Tensor logits = model_->forward(batch.images);
  auto* right = right_.mutable_data_ptr<int64_t>();
  right[0] += logits.detach().argmax(1).eq(batch.labels).sum().item<int64_t>();
  right[1] += batch.labels.size(0);
  return at::cross_entropy_loss(logits, batch.labels);
}

nlohmann::json ImageClassification::training_measures(bool whole) {
  nlohmann::json measures = MemoryTask::training_measures(whole);
  auto* right = right_.mutable_data_ptr<int64_t>();
  measures["train_accuracy"] = nullptr;
  if (right[1] > 0) measures["train_accuracy"] = static_cast<double>(right[0]) / static_cast<double>(right[1]);
  right_.zero_();
  return measures;
}

void ImageClassification::before_step(int64_t step, OptimizerSet& optimizers) {
  MemoryTask::before_step(step, optimizers);
  non_local_watch_.before_step(step);
}

std::vector<TaskEvent> ImageClassification::after_step(const StepMade& made, OptimizerSet& optimizers) {
  std::vector<TaskEvent> events = MemoryTask::after_step(made, optimizers);
  for (TaskEvent& event : non_local_watch_.after_step(made.step)) events.push_back(std::move(event));
  return events;
}

std::vector<std::pair<std::string, at::Tensor>> ImageClassification::extra_state() {
  auto state = MemoryTask::extra_state();
  state.emplace_back("right", right_);
  return state;
}

std::vector<Measure> ImageClassification::measures() const {
  std::vector<Measure> measures = {{"accuracy", 1, false, "%", "share of the test images whose class is the likeliest"},
                                   {"loss", 3, true, "nats", "what the network misses of the classes, per test image"}};
  if (std::ssize(input_.classes) > kBest) {
    measures.push_back({"top_5", 1, false, "%", "share of the test images whose class is among the five likeliest"});
  }
  if (memory()) add_usage_measures(measures, "memory's rows", "test images");
  return measures;
}

Evaluation ImageClassification::evaluate() {
  const CountedReads reads(memory());
  const int64_t best = std::min(kBest, std::ssize(input_.classes));
  double nats = 0;
  int64_t right = 0, among_best = 0, images = 0;
  for (int64_t index = 0; index < feed_.test_batches(); ++index) {
    StopSignal::check("stopped while the model was evaluated");
    if (progress_ != nullptr) progress_->show(fmt::format("evaluating: {} images", images));
    const ImageBatch batch = feed_.test(index);
    const at::Tensor logits = model_->forward(batch.images);
    nats += at::cross_entropy_loss(logits, batch.labels, {}, at::Reduction::Sum).item<double>();
    const at::Tensor found = std::get<1>(at::topk(logits, best, 1)).eq(batch.labels.unsqueeze(1));  // [B, best]
    right += found.select(1, 0).sum().item<int64_t>();
    among_best += found.sum().item<int64_t>();
    images += batch.labels.size(0);
  }
  const auto all = static_cast<double>(images);
  const auto [dense, table] = count_resnet_parameters(model_->options());
  Evaluation result{
      {static_cast<double>(right) / all, nats / all},
      {{"images", images},
       {"parameters", dense},
       {"rows", model_->memory() ? model_->memory()->table()->rows() : 0},
       {"multiply_adds", resnet_multiply_adds(model_->options(), input_.shape.height, input_.shape.width)}}};
  if (std::ssize(input_.classes) > kBest) result.values.push_back(static_cast<double>(among_best) / all);
  if (reads.usage) add_usage(result, *reads.usage);
  return result;
}

Account ImageClassification::account(const Evaluation& evaluation, const AccountOptions& options) {
  Account account = Task::account(evaluation, options);
  const nlohmann::json& details = evaluation.details;
  account.text = fmt::format("{} test images; {} parameters without rows, {} multiply-adds an image\n",
                             details.at("images").get<int64_t>(), details.at("parameters").get<int64_t>(),
                             format_count(details.at("multiply_adds").get<double>()));
  for (const nlohmann::json& memory : details.value("memories", nlohmann::json::array())) {
    account.text +=
        fmt::format("memory at block {}: usage {:.1f} %, as first {:.1f} %, KL {:.3f}, Gini {:.3f}\n",
                    memory.at("layer").get<int64_t>(), 100 * number_of(memory.at("usage")),
                    100 * number_of(memory.at("usage_at_1")), number_of(memory.at("kl")), number_of(memory.at("gini")));
  }
  return account;
}

int64_t ImageClassification::infer(int64_t position) {
  const ImageBatch batch = feed_.test(position % feed_.test_batches());
  model_->forward(batch.images);
  return batch.labels.size(0);
}

std::vector<std::pair<std::string, std::string>> ImageClassification::files() {
  return {{ImageInput::kFile, input_.save()}};
}

LoadedImageClassifier load_image_classifier(const ImageClassificationPlan& plan, uint64_t seed,
                                            const CheckpointReader& checkpoint) {
  ImageInput input = ImageInput::load(checkpoint.file(ImageInput::kFile));
  auto model = std::make_shared<Resnet>(plan.model_for(std::ssize(input.classes)), seed, serving_tables(checkpoint));
  load_network(checkpoint, *model, model->memory());
  return {std::move(model), std::move(input), plan.data.folder.image};
}

}  // namespace loci
