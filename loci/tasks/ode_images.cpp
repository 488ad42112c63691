// Legend: B images of a micro-batch.
#include "loci/tasks/ode_images.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/log_softmax.h>

#include "loci/base/check.h"
#include "loci/tasks/network_size.h"

namespace loci {

void OdeImagesPlan::fields(ConfigFields& f) {
  f.section("data", data);
  f.section("model", model);
}

OdeNetOptions OdeImagesPlan::model_for(const ImageShape& shape, int64_t classes) const {
  OdeNetOptions options = options_for_images(model, shape, classes);
  options.images = true;
  return options;
}

OdeNetOptions OdeImagesPlan::assumed_model() const {
  return model_for({data.height(), data.width(), data.channels()}, kAssumedClasses);
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
    : ImageNetworkTask(plan.data, inputs),
      model_(std::make_shared<OdeNet>(plan.model_for(input().shape, classes()), inputs.seed)) {}

at::Tensor OdeImages::loss(int64_t step, int64_t micro) {
  at::Tensor loss = ImageNetworkTask::loss(step, micro);
  if (at::GradMode::is_enabled()) evaluations_.add(model_->block());  // not of weights that are only tried
  return loss;
}

std::vector<Measure> OdeImages::measures() const {
  std::vector<Measure> list = ClassAccuracy::measures(classes(), "test image");
  list.push_back(OdeEvaluations::measure());
  return list;
}

Evaluation OdeImages::evaluate() {
  ClassAccuracy found(classes());
  OdeEvaluations evaluations;
  over_test([&](const at::Tensor& scores, const at::Tensor& labels) {
    found.add(at::log_softmax(scores, 1), labels);
    evaluations.add(model_->block());
  });
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

nlohmann::json OdeImages::training_measures(bool whole) {
  nlohmann::json line = ImageNetworkTask::training_measures(whole);
  const double mean = evaluations_.take();
  line["evaluations"] = std::isnan(mean) ? nlohmann::json() : nlohmann::json(mean);
  return line;
}

}  // namespace loci
