// Legend: B samples of a batch, T frames.
#include "loci/tasks/pair_shapes.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cross_entropy_loss.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/log_softmax.h>
#include <ATen/ops/softmax.h>

#include <algorithm>

#include "loci/base/check.h"
#include "loci/base/stop_signal.h"
#include "loci/tasks/attention_map.h"
#include "loci/tasks/image_data.h"
#include "loci/tasks/network_size.h"
#include "loci/tasks/row_map.h"

namespace loci {
namespace {

constexpr int64_t kTestSamplesAtOnce = 256;
constexpr uint64_t kTestSamplesSeed = 0;  // for every run; the stream is another one than that of training

}  // namespace

void PairTaskData::fields(ConfigFields& f) {
  shapes.fields(f);
  f.field("test_samples", test_samples, "samples of an evaluation, the same ones for every seed",
          {.minimum = 1, .maximum = 1 << 24});
}

void PairShapesPlan::fields(ConfigFields& f) {
  f.section("data", data);
  f.section("model", model);
}

PairNetOptions PairShapesPlan::model_of_data() const {
  PairNetOptions options = model;
  options.frames = data.shapes.frames;
  return options;
}

void PairShapesPlan::check() const {
  data.shapes.check();
  model_of_data().check();
}

RunSize PairShapesPlan::size(const BatchShape& batch, const RowOptimizerOptions&, bool bfloat16) const {
  const PairNetOptions options = model_of_data();
  RunSize size = network_size(options.parameters(), options.multiply_adds(), batch);
  // The batch of the step, the one that is made for the next, and one of an evaluation.
  const int64_t samples = checked_sum("config", "samples", 2 * batch.per_micro_batch(), kTestSamplesAtOnce);
  size.memory.emplace_back("data", 4 * samples * data.shapes.numbers());
  add_activations(size, options.kept_numbers() * (bfloat16 ? 2 : 4), batch);
  return size;
}

std::unique_ptr<Task> PairShapesPlan::make(const TaskInputs& inputs) const {
  return std::make_unique<PairShapesTask>(*this, inputs);
}

std::unique_ptr<TaskPlan> pair_shapes_plan() {
  return std::make_unique<PairShapesPlan>();
}

PairShapesTask::PairShapesTask(const PairShapesPlan& plan, const TaskInputs& inputs)
    : plan_(plan),
      batch_(inputs.batch),
      training_(plan.data.shapes, inputs.seed, "pair_shapes.training"),
      test_(plan.data.shapes, kTestSamplesSeed, "pair_shapes.test"),
      model_(std::make_shared<PairNet>(plan.model_of_data(), inputs.seed)),
      watch_(model_->non_local()),
      progress_(inputs.progress),
      batches_([this](int64_t position) {
        const int64_t count = batch_.per_micro_batch();
        return batch_of(training_, position * count, count);
      }) {}

PairShapesTask::Batch PairShapesTask::batch_of(const PairShapes& shapes, int64_t first, int64_t count) const {
  constexpr int64_t side = PairShapesOptions::kSide;
  Batch batch = {at::empty({count, plan_.data.shapes.frames, side, side}, at::kFloat), at::empty({count}, at::kLong)};
  shapes.fill(first, count, batch.frames.mutable_data_ptr<float>(), batch.labels.mutable_data_ptr<int64_t>());
  return batch;
}

int64_t PairShapesTask::test_batches() const {
  return (plan_.data.test_samples + kTestSamplesAtOnce - 1) / kTestSamplesAtOnce;
}

PairShapesTask::Batch PairShapesTask::test_batch(int64_t index) const {
  const int64_t first = index * kTestSamplesAtOnce;
  return batch_of(test_, first, std::min(kTestSamplesAtOnce, plan_.data.test_samples - first));
}

at::Tensor PairShapesTask::loss(int64_t step, int64_t micro) {
  const Batch batch = batches_.take(step * batch_.accumulation + micro);
  const at::Tensor logits = model_->forward(batch.frames);
  right_.add(logits, batch.labels);
  return at::cross_entropy_loss(logits, batch.labels);
}

std::vector<Measure> PairShapesTask::measures() const {
  return {{"accuracy", 1, false, "%", "share of the test samples that are answered well; chance is 50 %"},
          {"loss", 3, true, "nats", "what the network misses of the answers, per test sample; chance is 0.693"}};
}

Evaluation PairShapesTask::evaluate() {
  ClassAccuracy found(2);
  for (int64_t index = 0; index < test_batches(); ++index) {
    StopSignal::check("stopped while the model was evaluated");
    if (progress_ != nullptr) progress_->show(fmt::format("evaluating: {} samples", found.samples()));
    const Batch batch = test_batch(index);
    found.add(at::log_softmax(model_->forward(batch.frames), 1), batch.labels);
  }
  return {found.values(),
          {{"samples", found.samples()},
           {"accuracy_interval", found.interval()},
           {"parameters", model_->options().parameters()},
           {"multiply_adds", model_->options().multiply_adds()}}};
}

Account PairShapesTask::account(const Evaluation& evaluation, const AccountOptions& options) {
  refuse_lengths(options);
  refuse_text_options(options);
  refuse_places(options);
  refuse_poses(options);
  Account account;
  if (options.pictures > 0) account.json["images"] = pictures(options.pictures);
  const nlohmann::json& details = evaluation.details;
  account.text = fmt::format(
      "{} test samples ({}); {} parameters, {} multiply-adds a sample\n"
      "{}; chance is 50 %\n",
      details.at("samples").get<int64_t>(), plan_.data.shapes.text(), model_->options().parameters(),
      format_count(details.at("multiply_adds").get<double>()),
      accuracy_text(evaluation.values[0], details.at("accuracy_interval")));
  return account;
}

nlohmann::json PairShapesTask::pictures(int64_t count) {
  if (count > plan_.data.test_samples) {
    fail(ExitCode::usage, "--pictures", fmt::format("must be at most the {} test samples", plan_.data.test_samples),
         fmt::to_string(count));
  }
  const Batch batch = batch_of(test_, 0, count);
  const KeptInputs kept(model_->non_local(), count);
  const auto [probability, answer] = at::softmax(model_->forward(batch.frames), 1).max(1);
  const std::vector<nlohmann::json> attention = kept.attention_maps();
  const char* const answers[] = {"different", "the same"};
  nlohmann::json samples = nlohmann::json::array();
  for (int64_t i = 0; i < count; ++i) {
    nlohmann::json picture;
    // -1.5 .. 1.5 as grey.
    const at::Tensor grey = (batch.frames[i] / 3 + 0.5).unsqueeze(1);
    for (const Image& frame : images_of(grey)) picture["frames"].push_back(pixels_json(frame));
    if (!attention.empty()) picture["attention"] = attention[static_cast<size_t>(i)];
    samples.push_back({{"file", fmt::format("sample {}", i)},
                       {"class", answers[answer[i].item<int64_t>()]},
                       {"probability", probability[i].item<double>()},
                       {"truth", answers[batch.labels[i].item<int64_t>()]},
                       {"picture", picture}});
  }
  return samples;
}

int64_t PairShapesTask::infer(int64_t position) {
  const Batch batch = test_batch(position % test_batches());
  model_->forward(batch.frames);
  return batch.labels.size(0);
}

std::string PairShapesTask::data_key() const {
  return "pair_shapes: " + plan_.data.shapes.text();
}

}  // namespace loci
