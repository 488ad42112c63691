// Legend: B clips of a batch, T frames, J joints.
#include "loci/tasks/skeleton_classification.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/cross_entropy_loss.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/log_softmax.h>

#include <algorithm>

#include "loci/base/check.h"
#include "loci/base/durable_file.h"
#include "loci/base/random.h"
#include "loci/base/stop_signal.h"
#include "loci/tasks/network_size.h"

namespace loci {
namespace {

constexpr int64_t kSkeletonsAtOnce = 256;  // of an evaluation
constexpr const char* kSkeletonFile = "skeletons.json";
constexpr int64_t kAssumedActions = 14, kAssumedJoints = 15;

std::shared_ptr<const OpenedSkeletons> open_skeletons(const TaskInputs& inputs) {
  if (auto opened = std::dynamic_pointer_cast<const OpenedSkeletons>(inputs.opened)) return opened;
  auto opened = std::make_shared<OpenedSkeletons>();
  opened->data = load_skeletons(inputs.data);
  return opened;
}

std::string skeleton_json(const SkeletonClips& data) {
  return nlohmann::json{{"classes", data.classes}, {"joints", data.joints}}.dump() + "\n";
}

// A network serves skeletons of the classes and joints that it was trained on.
void check_skeletons_of_run(const SkeletonClips& data, const TaskInputs& inputs) {
  if (inputs.checkpoint.empty()) return;
  const std::string kept = read_text_file(inputs.checkpoint / kSkeletonFile), got = skeleton_json(data);
  if (got == kept) return;
  fail(ExitCode::input, inputs.data.string(), "classes and joints must be those of the run, " + kept, got);
}

}  // namespace

void SkeletonTaskData::fields(ConfigFields& f) {
  f.field("frames", frames, "frames that each clip is resampled to", {.minimum = 1, .maximum = 1 << 16});
  f.field("shortest_part", shortest_part, "training draws a part of a clip, at least this share of it",
          {.minimum = 0, .maximum = 1});
  f.field("noise", noise, "deviation of what is added to a training clip's joints; 1 is the body's height",
          {.minimum = 0, .maximum = 10});
}

void SkeletonClassificationPlan::fields(ConfigFields& f) {
  f.section("data", data);
  f.section("model", model);
}

SkeletonNetOptions SkeletonClassificationPlan::model_for(int64_t classes, int64_t joints) const {
  SkeletonNetOptions options = model;
  options.frames = data.frames;
  options.classes = classes;
  options.joints = joints;
  return options;
}

void SkeletonClassificationPlan::check() const {
  model_for(kAssumedActions, kAssumedJoints).check();
}

RunSize SkeletonClassificationPlan::size(const BatchShape& batch, const RowOptimizerOptions&, bool bfloat16) const {
  const SkeletonNetOptions options = model_for(kAssumedActions, kAssumedJoints);
  RunSize size = network_size(options.parameters(), options.multiply_adds(), batch);
  // The batch of the step, the one that is made for the next, and one of an evaluation.
  const int64_t clips = checked_sum("config", "clips", 2 * batch.per_micro_batch(), kSkeletonsAtOnce);
  size.memory.emplace_back("data",
                           checked_product("config", "bytes of clips", clips, 4 * 2 * data.frames * kAssumedJoints));
  add_activations(size, options.kept_numbers() * (bfloat16 ? 2 : 4), batch);
  return size;
}

std::unique_ptr<Task> SkeletonClassificationPlan::make(const TaskInputs& inputs) const {
  return std::make_unique<SkeletonClassification>(*this, inputs);
}

std::unique_ptr<TaskPlan> skeleton_classification_plan() {
  return std::make_unique<SkeletonClassificationPlan>();
}

SkeletonClassification::SkeletonClassification(const SkeletonClassificationPlan& plan, const TaskInputs& inputs)
    : plan_(plan),
      batch_(inputs.batch),
      seed_(inputs.seed),
      opened_(open_skeletons(inputs)),
      model_(std::make_shared<SkeletonNet>(plan.model_for(classes(), opened_->data.joints), inputs.seed)),
      order_(std::ssize(opened_->data.train), inputs.seed),
      watch_(model_->non_local()),
      batches_([this](int64_t position) { return training_at(position); }) {
  check_skeletons_of_run(opened_->data, inputs);
}

std::vector<std::pair<std::string, std::string>> SkeletonClassification::files() {
  return {{kSkeletonFile, skeleton_json(opened_->data)}};
}

SkeletonClassification::Batch SkeletonClassification::empty(int64_t clips) const {
  return {at::empty({clips, 2, plan_.data.frames, opened_->data.joints}, at::kFloat), at::empty({clips}, at::kLong)};
}

// Which part of a clip and which noise follow from epoch and clip alone, whatever the batch is.
SkeletonClassification::Batch SkeletonClassification::training_at(int64_t position) const {
  const int64_t clips = batch_.per_micro_batch();
  const Batch batch = empty(clips);
  const int64_t numbers = batch.maps.numel() / clips;
  auto* maps = batch.maps.mutable_data_ptr<float>();
  auto* labels = batch.labels.mutable_data_ptr<int64_t>();
  const CounterRandom parts(seed_, "skeleton part"), noise(seed_, "skeleton noise");
  for (int64_t b = 0; b < clips; ++b, maps += numbers) {
    const EpochOrder::Visit visit = order_.at(position * clips + b);
    const SkeletonClip& clip = opened_->data.train[static_cast<size_t>(visit.item)];
    const uint64_t draw =
        static_cast<uint64_t>(visit.epoch) * static_cast<uint64_t>(order_.items()) + static_cast<uint64_t>(visit.item);
    const auto last = static_cast<double>(clip.frames - 1), shortest = plan_.data.shortest_part;
    const double length = last * (shortest + (1 - shortest) * parts.uniform(2 * draw));
    const double begin = (last - length) * parts.uniform(2 * draw + 1);
    resample_skeleton(clip, begin, begin + length, plan_.data.frames, maps);
    for (int64_t i = 0; i < numbers; ++i) {
      const uint64_t at = draw * static_cast<uint64_t>(numbers) + static_cast<uint64_t>(i);
      maps[i] += static_cast<float>(plan_.data.noise * noise.normal(at));
    }
    labels[b] = clip.label;
  }
  return batch;
}

int64_t SkeletonClassification::test_batches() const {
  return (std::ssize(opened_->data.test) + kSkeletonsAtOnce - 1) / kSkeletonsAtOnce;
}

SkeletonClassification::Batch SkeletonClassification::test_batch(int64_t index) const {
  const int64_t first = index * kSkeletonsAtOnce;
  const int64_t clips = std::min(kSkeletonsAtOnce, std::ssize(opened_->data.test) - first);
  const Batch batch = empty(clips);
  const int64_t numbers = batch.maps.numel() / clips;
  for (int64_t b = 0; b < clips; ++b) {
    const SkeletonClip& clip = opened_->data.test[static_cast<size_t>(first + b)];
    resample_skeleton(clip, 0, static_cast<double>(clip.frames - 1), plan_.data.frames,
                      batch.maps.mutable_data_ptr<float>() + b * numbers);
    batch.labels.mutable_data_ptr<int64_t>()[b] = clip.label;
  }
  return batch;
}

at::Tensor SkeletonClassification::loss(int64_t step, int64_t micro) {
  const int64_t position = step * batch_.accumulation + micro;
  const Batch batch = batches_.take(position);
  const uint64_t dropout_seed = CounterRandom(seed_, "dropout").bits(static_cast<uint64_t>(position));
  const at::Tensor logits = model_->forward(batch.maps, at::detail::createCPUGenerator(dropout_seed));
  right_.add(logits, batch.labels);
  return at::cross_entropy_loss(logits, batch.labels);
}

Evaluation SkeletonClassification::evaluate() {
  ClassAccuracy found(classes());
  for (int64_t index = 0; index < test_batches(); ++index) {
    StopSignal::check("stopped while the model was evaluated");
    const Batch batch = test_batch(index);
    found.add(at::log_softmax(model_->forward(batch.maps), 1), batch.labels);
  }
  return {found.values(),
          {{"clips", found.samples()},
           {"accuracy_interval", found.interval()},
           {"parameters", model_->options().parameters()},
           {"multiply_adds", model_->options().multiply_adds()}}};
}

Account SkeletonClassification::account(const Evaluation& evaluation, const AccountOptions& options) {
  Account account = Task::account(evaluation, options);
  const nlohmann::json& details = evaluation.details;
  account.text = fmt::format(
      "{} test clips of {} joints, {} frames each; {} parameters, {} multiply-adds a clip\n"
      "{}\n",
      details.at("clips").get<int64_t>(), opened_->data.joints, plan_.data.frames, model_->options().parameters(),
      format_count(details.at("multiply_adds").get<double>()),
      accuracy_text(evaluation.values[0], details.at("accuracy_interval")));
  return account;
}

int64_t SkeletonClassification::infer(int64_t position) {
  const Batch batch = test_batch(position % test_batches());
  model_->forward(batch.maps);
  return batch.labels.size(0);
}

nlohmann::json SkeletonClassification::data_facts() const {
  const SkeletonClips& data = opened_->data;
  return {{"training clips", data.train.size()},
          {"test clips", data.test.size()},
          {"classes", data.classes.size()},
          {"joints", data.joints}};
}

}  // namespace loci
