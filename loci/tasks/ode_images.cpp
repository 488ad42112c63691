// Legend: B images of a micro-batch.
#include "loci/tasks/ode_images.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cross_entropy_loss.h>
#include <ATen/ops/log_softmax.h>

#include "loci/base/check.h"
#include "loci/base/stop_signal.h"
#include "loci/tasks/network_size.h"

namespace loci {
namespace {

constexpr int64_t kOdeClasses = 10;  // that sizes are estimated with

}  // namespace

void OdeImagesPlan::fields(ConfigFields& f) {
  f.section("data", data);
  f.section("model", model);
}

OdeNetOptions OdeImagesPlan::model_for(const ImageShape& shape, int64_t classes) const {
  OdeNetOptions options = model;
  options.images = true;
  options.channels = shape.channels;
  options.height = shape.height;
  options.width = shape.width;
  options.classes = classes;
  return options;
}

OdeNetOptions OdeImagesPlan::assumed_model() const {
  return model_for({data.height(), data.width(), data.channels()}, kOdeClasses);
}

void OdeImagesPlan::check() const {
  check_image_size(data.folder.image);
  assumed_model().check();
}

RunSize OdeImagesPlan::size(const BatchShape& batch, const RowOptimizerOptions&, bool) const {
  const OdeNetOptions options = assumed_model();
  RunSize size = network_size(options.parameters(), options.multiply_adds(), batch);
  add_activations(size, 4 * options.kept_numbers(), batch);
  return size;
}

std::unique_ptr<Task> OdeImagesPlan::make(const TaskInputs& inputs) const {
  return std::make_unique<OdeImages>(*this, inputs);
}

std::unique_ptr<TaskPlan> ode_images_plan() {
  return std::make_unique<OdeImagesPlan>();
}

OdeImages::OdeImages(const OdeImagesPlan& plan, const TaskInputs& inputs)
    : plan_(plan),
      batch_(inputs.batch),
      opened_(open_images(plan.data, inputs)),
      input_(input_of_run(opened_->input, inputs)),
      model_(std::make_shared<OdeNet>(plan.model_for(input_.shape, std::ssize(input_.classes)), inputs.seed)),
      feed_(opened_, input_, plan.data.augment, batch_, inputs.seed),
      progress_(inputs.progress) {}

at::Tensor OdeImages::loss(int64_t step, int64_t micro) {
  const ImageBatch batch = feed_.training(step, micro);
  const at::Tensor logits = model_->forward(batch.images);
  right_.add(logits, batch.labels);
  if (at::GradMode::is_enabled()) evaluations_.add(model_->block());  // not of weights that are only tried
  return at::cross_entropy_loss(logits, batch.labels);
}

std::vector<Measure> OdeImages::measures() const {
  std::vector<Measure> list = ClassAccuracy::measures(std::ssize(input_.classes), "test image");
  list.push_back(OdeEvaluations::measure());
  return list;
}

Evaluation OdeImages::evaluate() {
  ClassAccuracy found(std::ssize(input_.classes));
  OdeEvaluations evaluations;
  for (int64_t index = 0; index < feed_.test_batches(); ++index) {
    StopSignal::check("stopped while the model was evaluated");
    if (progress_ != nullptr) progress_->show(fmt::format("evaluating: {} images", found.samples()));
    const ImageBatch batch = feed_.test(index);
    found.add(at::log_softmax(model_->forward(batch.images), 1), batch.labels);
    evaluations.add(model_->block());
  }
  Evaluation result{found.values(),
                    {{"images", found.samples()},
                     {"accuracy_interval", found.interval()},
                     {"parameters", model_->options().parameters()}}};
  result.values.push_back(evaluations.take());
  return result;
}

Account OdeImages::account(const Evaluation& evaluation, const AccountOptions& options) {
  Account account = Task::account(evaluation, options);
  const nlohmann::json& details = evaluation.details;
  account.text = fmt::format("{} test images; {} parameters\n{}\n", details.at("images").get<int64_t>(),
                             details.at("parameters").get<int64_t>(),
                             accuracy_text(evaluation.values[0], details.at("accuracy_interval")));
  return account;
}

int64_t OdeImages::infer(int64_t position) {
  const ImageBatch batch = feed_.test(position % feed_.test_batches());
  model_->forward(batch.images);
  return batch.labels.size(0);
}

nlohmann::json OdeImages::training_measures(bool) {
  nlohmann::json line = right_.take();
  const double mean = evaluations_.take();
  line["evaluations"] = std::isnan(mean) ? nlohmann::json() : nlohmann::json(mean);
  return line;
}

}  // namespace loci
