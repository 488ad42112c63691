// Legend: B images of a batch, C channels.
#include "loci/tasks/image_classification.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cross_entropy_loss.h>
#include <ATen/ops/log_softmax.h>

#include "loci/base/check.h"
#include "loci/base/stop_signal.h"
#include "loci/train/table_home.h"

namespace loci {
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
  right_.add(logits, batch.labels);
  return at::cross_entropy_loss(logits, batch.labels);
}

nlohmann::json ImageClassification::training_measures(bool whole) {
  nlohmann::json measures = MemoryTask::training_measures(whole);
  measures.update(right_.take());
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
  state.push_back(right_.state());
  return state;
}

std::vector<Measure> ImageClassification::measures() const {
  std::vector<Measure> measures = ClassAccuracy::measures(std::ssize(input_.classes), "test image");
  if (memory()) add_usage_measures(measures, "memory's rows", "test images");
  return measures;
}

Evaluation ImageClassification::evaluate() {
  const CountedReads reads(memory());
  ClassAccuracy found(std::ssize(input_.classes));
  for (int64_t index = 0; index < feed_.test_batches(); ++index) {
    StopSignal::check("stopped while the model was evaluated");
    if (progress_ != nullptr) progress_->show(fmt::format("evaluating: {} images", found.samples()));
    const ImageBatch batch = feed_.test(index);
    found.add(at::log_softmax(model_->forward(batch.images), 1), batch.labels);
  }
  const auto [dense, table] = count_resnet_parameters(model_->options());
  Evaluation result{
      found.values(),
      {{"images", found.samples()},
       {"parameters", dense},
       {"rows", model_->memory() ? model_->memory()->table()->rows() : 0},
       {"multiply_adds", resnet_multiply_adds(model_->options(), input_.shape.height, input_.shape.width)}}};
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
