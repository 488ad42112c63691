// Legend: B samples of a batch, D numbers of a point.
#include "loci/tasks/ode_points.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cross_entropy_loss.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/log_softmax.h>

#include <algorithm>

#include "loci/base/check.h"
#include "loci/base/stop_signal.h"
#include "loci/tasks/network_size.h"

namespace loci {
namespace {

constexpr int64_t kOdeTestPointsAtOnce = 256;
constexpr uint64_t kOdeTestSeed = 0;  // for every run; the stream is another one than that of training
constexpr int64_t kFlowSteps = 60;    // of a picture

// [.., D] as lists.
nlohmann::json numbers_of(const at::Tensor& x) {
  nlohmann::json list = nlohmann::json::array();
  if (x.dim() == 1) {
    for (int64_t i = 0; i < x.size(0); ++i) list.push_back(x[i].item<double>());
  } else {
    for (int64_t i = 0; i < x.size(0); ++i) list.push_back(numbers_of(x[i]));
  }
  return list;
}

}  // namespace

void OdePointsData::fields(ConfigFields& f) {
  f.choice<OdeSet>("set", set, "reflection: x of the line to -x; annuli: which of two annuli a point lies in",
                   {{"reflection", OdeSet::reflection}, {"annuli", OdeSet::annuli}});
  f.field("test_samples", test_samples, "samples of an evaluation, the same ones for every seed",
          {.minimum = 1, .maximum = 1 << 24});
}

void OdePointsPlan::fields(ConfigFields& f) {
  f.section("data", data);
  f.section("model", model);
}

OdeNetOptions OdePointsPlan::model_of_data() const {
  OdeNetOptions options = model;
  options.images = false;
  options.channels = OdePoints::dimensions(data.set);
  options.classes = data.set == OdeSet::reflection ? 0 : 2;
  return options;
}

RunSize OdePointsPlan::size(const BatchShape& batch, const RowOptimizerOptions&, bool) const {
  const OdeNetOptions options = model_of_data();
  RunSize size = network_size(options.parameters(), options.multiply_adds(), batch);
  add_activations(size, 4 * options.kept_numbers(), batch);
  return size;
}

std::unique_ptr<Task> OdePointsPlan::make(const TaskInputs& inputs) const {
  return std::make_unique<OdePointsTask>(*this, inputs);
}

std::unique_ptr<TaskPlan> ode_points_plan() {
  return std::make_unique<OdePointsPlan>();
}

OdePointsTask::OdePointsTask(const OdePointsPlan& plan, const TaskInputs& inputs)
    : plan_(plan),
      batch_(inputs.batch),
      training_(plan.data.set, inputs.seed, "ode_points.training"),
      test_(plan.data.set, kOdeTestSeed, "ode_points.test"),
      model_(std::make_shared<OdeNet>(plan.model_of_data(), inputs.seed)) {}

OdePointsTask::Batch OdePointsTask::batch_of(const OdePoints& points, int64_t first, int64_t count) const {
  Batch batch = {at::empty({count, OdePoints::dimensions(plan_.data.set)}, at::kFloat), at::empty({count}, at::kLong)};
  points.fill(first, count, batch.points.mutable_data_ptr<float>(), batch.labels.mutable_data_ptr<int64_t>());
  return batch;
}

int64_t OdePointsTask::test_batches() const {
  return (plan_.data.test_samples + kOdeTestPointsAtOnce - 1) / kOdeTestPointsAtOnce;
}

OdePointsTask::Batch OdePointsTask::test_batch(int64_t index) const {
  const int64_t first = index * kOdeTestPointsAtOnce;
  return batch_of(test_, first, std::min(kOdeTestPointsAtOnce, plan_.data.test_samples - first));
}

at::Tensor OdePointsTask::loss(int64_t step, int64_t micro) {
  const int64_t count = batch_.per_micro_batch();
  const Batch batch = batch_of(training_, (step * batch_.accumulation + micro) * count, count);
  const at::Tensor y = model_->forward(batch.points);
  if (at::GradMode::is_enabled()) evaluations_.add(model_->block());  // not of weights that are only tried
  return reflects() ? (y + batch.points).square().mean() : at::cross_entropy_loss(y, batch.labels);
}

std::vector<Measure> OdePointsTask::measures() const {
  std::vector<Measure> list;
  if (reflects()) {
    list = {{"error", 5, true, "", "mean square of the distance to -x; of 0, the nearest rising function, 1/3"}};
  } else {
    list = ClassAccuracy::measures(2, "test sample");
  }
  list.push_back(OdeEvaluations::measure());
  return list;
}

Evaluation OdePointsTask::evaluate() {
  ClassAccuracy found(2);
  OdeEvaluations evaluations;
  double square = 0;
  for (int64_t index = 0; index < test_batches(); ++index) {
    StopSignal::check("stopped while the model was evaluated");
    const Batch batch = test_batch(index);
    const at::Tensor y = model_->forward(batch.points);
    evaluations.add(model_->block());
    if (reflects()) {
      square += (y + batch.points).square().sum().item<double>();
    } else {
      found.add(at::log_softmax(y, 1), batch.labels);
    }
  }
  Evaluation result;
  result.values =
      reflects() ? std::vector<double>{square / static_cast<double>(plan_.data.test_samples)} : found.values();
  result.values.push_back(evaluations.take());
  result.details = {{"samples", plan_.data.test_samples}, {"parameters", model_->options().parameters()}};
  return result;
}

Account OdePointsTask::account(const Evaluation& evaluation, const AccountOptions& options) {
  refuse_lengths(options);
  refuse_text_options(options);
  refuse_places(options);
  refuse_poses(options);
  Account account;
  if (options.pictures > 0) account.json["flow"] = flow(options.pictures);
  account.text = fmt::format("{} test samples of {}; {} parameters\n", evaluation.details.at("samples").get<int64_t>(),
                             OdePoints::name(plan_.data.set), model_->options().parameters());
  return account;
}

nlohmann::json OdePointsTask::flow(int64_t count) const {
  if (count > plan_.data.test_samples) {
    fail(ExitCode::usage, "--pictures", fmt::format("must be at most the {} test samples", plan_.data.test_samples),
         fmt::to_string(count));
  }
  const Batch batch = batch_of(test_, 0, count);
  const at::Tensor S = model_->block().depth(batch.points);
  nlohmann::json flow = {{"set", OdePoints::name(plan_.data.set)}, {"depth", numbers_of(S.detach().expand({count}))}};
  if (!reflects()) {
    for (int64_t i = 0; i < count; ++i) flow["labels"].push_back(batch.labels[i].item<int64_t>());
  }
  // The first D numbers, those of the plane.
  for (const at::Tensor& state : model_->block().path(batch.points, kFlowSteps)) {
    flow["states"].push_back(numbers_of(state.narrow(1, 0, batch.points.size(1))));
  }
  return flow;
}

int64_t OdePointsTask::infer(int64_t position) {
  const Batch batch = test_batch(position % test_batches());
  model_->forward(batch.points);
  return batch.points.size(0);
}

nlohmann::json OdePointsTask::training_measures(bool) {
  const double mean = evaluations_.take();
  return {{"evaluations", std::isnan(mean) ? nlohmann::json() : nlohmann::json(mean)}};
}

}  // namespace loci
