// Legend: B clips of a batch, N windows of a test clip.
#include "loci/tasks/video_classification.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/cross_entropy_loss.h>

#include <limits>

#include "loci/base/check.h"
#include "loci/base/random.h"
#include "loci/base/stop_signal.h"
#include "loci/tasks/memory_task.h"
#include "loci/tasks/network_size.h"

namespace loci {
namespace {

constexpr int64_t kAssumedVideoClasses = 10;  // of size estimates

MapExtents clip_extents(const VideoTaskData& data, const ImageShape& output) {
  return {data.windows.frames, output.height, output.width};
}

}  // namespace

void VideoClassificationPlan::fields(ConfigFields& f) {
  f.section("data", data);
  f.section("model", model);
}

VideoResnetOptions VideoClassificationPlan::model_for(int64_t classes) const {
  VideoResnetOptions options = model;
  options.classes = classes;
  options.channels = data.channels();
  return options;
}

void VideoClassificationPlan::check() const {
  data.check();
  video_resnet_multiply_adds(model_for(kAssumedVideoClasses), clip_extents(data, data.assumed_output()));
}

RunSize VideoClassificationPlan::size(const BatchShape& batch, const RowOptimizerOptions&, bool bfloat16) const {
  const VideoResnetOptions options = model_for(kAssumedVideoClasses);
  const ImageShape output = data.assumed_output();
  const MapExtents clip = clip_extents(data, output);
  RunSize size = network_size(count_video_resnet_parameters(options), video_resnet_multiply_adds(options, clip), batch);
  // The batch of the step, the one that is made for the next, and one of an evaluation.
  const int64_t test_windows =
      checked_product("config", "windows", test_clips_at_once(data.windows), data.windows.eval_clips);
  const int64_t windows = checked_sum("config", "clips", 2 * batch.per_micro_batch(), test_windows);
  const int64_t bytes = checked_product("config", "bytes of a clip", 4 * data.windows.frames, output.bytes());
  size.memory.emplace_back("data", checked_product("config", "bytes of clips", windows, bytes));
  add_activations(size, video_resnet_kept_numbers(options, clip) * (bfloat16 ? 2 : 4), batch);
  return size;
}

std::unique_ptr<Task> VideoClassificationPlan::make(const TaskInputs& inputs) const {
  return std::make_unique<VideoClassification>(*this, inputs);
}

std::unique_ptr<TaskPlan> video_classification_plan() {
  return std::make_unique<VideoClassificationPlan>();
}

VideoClassification::VideoClassification(const VideoClassificationPlan& plan, const TaskInputs& inputs)
    : plan_(plan),
      batch_(inputs.batch),
      seed_(inputs.seed),
      opened_(open_clips(plan.data, inputs)),
      input_(input_of_run(opened_->input, inputs)),
      model_(std::make_shared<VideoResnet>(plan.model_for(std::ssize(input_.classes)), inputs.seed)),
      // Frames that the network cannot take are refused here, before any step.
      multiply_adds_(
          video_resnet_multiply_adds(model_->options(), clip_extents(plan.data, plan.data.output(input_.shape)))),
      feed_(opened_, input_, plan.data, batch_, inputs.seed),
      watch_(model_->non_local()),
      progress_(inputs.progress) {}

at::Tensor VideoClassification::loss(int64_t step, int64_t micro) {
  const ClipBatch batch = feed_.training(step, micro);
  const auto position = static_cast<uint64_t>(step * batch_.accumulation + micro);
  const uint64_t dropout_seed = CounterRandom(seed_, "dropout").bits(position);
  const at::Tensor logits = model_->forward(batch.clips, at::detail::createCPUGenerator(dropout_seed));
  right_.add(logits, batch.labels);
  return at::cross_entropy_loss(logits, batch.labels);
}

Evaluation VideoClassification::evaluate() {
  ClassAccuracy found(std::ssize(input_.classes));
  for (int64_t index = 0; index < feed_.test_batches(); ++index) {
    StopSignal::check("stopped while the model was evaluated");
    if (progress_ != nullptr) progress_->show(fmt::format("evaluating: {} clips", found.samples()));
    const ClipBatch batch = feed_.test(index);
    const at::Tensor share = clip_probabilities(model_->forward(batch.clips), plan_.data.windows.eval_clips);
    found.add(share.clamp_min(std::numeric_limits<float>::min()).log(), batch.labels);
  }
  return {found.values(),
          {{"clips", found.samples()},
           {"accuracy_interval", found.interval()},
           {"parameters", count_video_resnet_parameters(model_->options())},
           {"multiply_adds", multiply_adds_}}};
}

Account VideoClassification::account(const Evaluation& evaluation, const AccountOptions& options) {
  Account account = Task::account(evaluation, options);
  const nlohmann::json& details = evaluation.details;
  const ClipWindows& windows = plan_.data.windows;
  account.text = fmt::format(
      "{} test clips, {} window{} of {} frames each; {} parameters, {} multiply-adds a window\n"
      "{}\n",
      details.at("clips").get<int64_t>(), windows.eval_clips, windows.eval_clips == 1 ? "" : "s", windows.frames,
      details.at("parameters").get<int64_t>(), format_count(static_cast<double>(multiply_adds_)),
      accuracy_text(evaluation.values[0], details.at("accuracy_interval")));
  return account;
}

int64_t VideoClassification::infer(int64_t position) {
  const ClipBatch batch = feed_.test(position % feed_.test_batches());
  model_->forward(batch.clips);
  return batch.labels.size(0);
}

LoadedVideoClassifier load_video_classifier(const VideoClassificationPlan& plan, uint64_t seed,
                                            const CheckpointReader& checkpoint) {
  ImageInput input = ImageInput::load(checkpoint.file(ImageInput::kFile));
  auto model = std::make_shared<VideoResnet>(plan.model_for(std::ssize(input.classes)), seed);
  load_network(checkpoint, *model, nullptr);
  return {std::move(model), std::move(input), plan.data};
}

}  // namespace loci
