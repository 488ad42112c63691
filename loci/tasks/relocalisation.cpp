// Legend: B images of a batch, C channels.
#include "loci/tasks/relocalisation.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/TensorOperators.h>

#include <algorithm>

#include "loci/base/check.h"
#include "loci/base/config.h"
#include "loci/base/random.h"
#include "loci/base/stop_signal.h"
#include "loci/tasks/network_size.h"
#include "loci/tasks/places.h"
#include "loci/train/table_home.h"

namespace loci {
namespace {

constexpr int64_t kFramesAtOnce = 128;     // of an evaluation
constexpr size_t kTrainFramesAsked = 500;  // of the training frames, for the gap

// Evenly spread over the frames, at most so many.
std::vector<int64_t> spread_frames(const std::vector<int64_t>& frames, size_t most) {
  if (frames.size() <= most) return frames;
  std::vector<int64_t> result;
  for (size_t i = 0; i < most; ++i) result.push_back(frames[i * frames.size() / most]);
  return result;
}

std::map<std::string, double> measures_of(const PoseErrors& errors) {
  return {{"metres", errors.metres},
          {"degrees", errors.degrees},
          {"within_fine", errors.within_fine},
          {"within_coarse", errors.within_coarse}};
}

PixelInput input_of_frames(const OpenedPoses& opened, const TaskInputs& inputs) {
  if (inputs.checkpoint.empty()) return {opened.images.shape(), opened.scale};
  PixelInput kept = PixelInput::load(inputs.checkpoint / PixelInput::kFile);
  if (kept.shape == opened.images.shape()) return kept;
  const auto text = [](const ImageShape& s) { return fmt::format("{} x {} x {}", s.height, s.width, s.channels); };
  fail(ExitCode::input, inputs.data.string(), fmt::format("frames must be {} as the run's", text(kept.shape)),
       text(opened.images.shape()));
}

std::vector<double> numbers_of(const Quaternion& q) {
  return {q.w, q.x, q.y, q.z};
}

// Of the test frames, in order; as many predictions.
nlohmann::json poses_json(const OpenedPoses& opened, const std::vector<Pose>& predicted) {
  const std::vector<int64_t>& test = opened.split.test;
  nlohmann::json paths = nlohmann::json::array(), truth = paths, found = paths, true_turn = paths, turn = paths;
  for (size_t i = 0; i < test.size(); ++i) {
    const auto frame = static_cast<size_t>(test[i]);
    paths.push_back(opened.paths[frame]);
    truth.push_back(opened.poses[frame].position);
    found.push_back(predicted[i].position);
    true_turn.push_back(numbers_of(opened.poses[frame].rotation));
    turn.push_back(numbers_of(predicted[i].rotation));
  }
  return {{"paths", paths},
          {"true", truth},
          {"predicted", found},
          {"true_rotation", true_turn},
          {"predicted_rotation", turn}};
}

}  // namespace

void RelocalisationPlan::fields(ConfigFields& f) {
  f.section("data", data);
  f.section("model", model);
}

PosenetOptions RelocalisationPlan::model_of_data() const {
  PosenetOptions options = model;
  options.channels = data.channels();
  return options;
}

void RelocalisationPlan::check() const {
  if (data.kind == PoseDataKind::sequence) check_image_size(data.image);
  model_of_data().check();
}

RunSize RelocalisationPlan::size(const BatchShape& batch, const RowOptimizerOptions& rows, bool bfloat16) const {
  const PosenetOptions options = model_of_data();
  const double small = bfloat16 ? 2 : 4;
  RunSize size = network_size(options.parameters().first, options.multiply_adds(data.height(), data.width()), batch);
  double image_bytes = resnet_kept_numbers(options.backbone(), data.height(), data.width()) * small;
  if (options.has_memory) {
    image_bytes += options.memory.position_bytes(options.head_width, small);
    add_map_memory(size, options.memory, options.head_width, rows);
  }
  if (data.kind == PoseDataKind::room) {
    const int64_t frames =
        checked_product("config", "frames", data.room.train_paths + data.room.test_paths, data.room.frames);
    size.memory.emplace_back(
        "data", checked_product("config", "bytes of frames", frames, 2 * 3 * data.height() * data.width()));
  }
  add_activations(size, image_bytes, batch);
  return size;
}

std::unique_ptr<Task> RelocalisationPlan::make(const TaskInputs& inputs) const {
  return std::make_unique<Relocalisation>(*this, inputs);
}

std::unique_ptr<TaskPlan> relocalisation_plan() {
  return std::make_unique<RelocalisationPlan>();
}

Relocalisation::Relocalisation(const RelocalisationPlan& plan, const TaskInputs& inputs)
    : MemoryTask(inputs),
      plan_(plan),
      opened_(open_poses(plan.data, inputs)),
      input_(input_of_frames(*opened_, inputs)),
      model_(std::make_shared<Posenet>(plan.model_of_data(), inputs.seed, inputs.tables)),
      order_(std::ssize(opened_->split.train), inputs.seed),
      progress_(inputs.progress),
      batches_([this](int64_t position) { return training_batch(position); }) {
  model_->start_at(median_pose(opened_->poses_of(opened_->split.train)));
  watch(model_->memory());
  const PosenetOptions& model = plan.model;
  if (model.has_memory && model.memory.has_reinitialise) {
    reinitialise(model.memory.reinitialise, MapMemoryOptions::row_deviation(model.head_width));
  }
}

Relocalisation::Batch Relocalisation::training_batch(int64_t position) const {
  std::vector<int64_t> frames;
  const int64_t count = batch_shape().per_micro_batch();
  for (int64_t i = 0; i < count; ++i) {
    frames.push_back(opened_->split.train[static_cast<size_t>(order_.at(position * count + i).item)]);
  }
  auto [where, turned] = model_->loss().targets(opened_->poses_of(frames));
  return {opened_->input(frames, input_.scale), std::move(where), std::move(turned)};
}

at::Tensor Relocalisation::loss(int64_t step, int64_t micro) {
  const int64_t position = step * batch_shape().accumulation + micro;
  const Batch batch = batches_.take(position);
  const uint64_t dropout_seed = CounterRandom(seed(), "dropout").bits(static_cast<uint64_t>(position));
  const auto observed = observe();
  const PosePrediction found = model_->forward(batch.images, at::detail::createCPUGenerator(dropout_seed));
  return model_->loss().forward(found.position, found.rotation, batch.position, batch.rotation);
}

std::vector<Pose> Relocalisation::predict(std::span<const int64_t> frames) const {
  std::vector<Pose> poses;
  for (size_t begin = 0; begin < frames.size(); begin += kFramesAtOnce) {
    StopSignal::check("stopped while the model was evaluated");
    if (progress_ != nullptr) progress_->show(fmt::format("evaluating: {} of {} frames", begin, frames.size()));
    const auto part = frames.subspan(begin, std::min<size_t>(kFramesAtOnce, frames.size() - begin));
    const PosePrediction found = model_->forward(opened_->input(part, input_.scale));
    for (const Pose& pose : model_->loss().poses(found.position, found.rotation)) poses.push_back(pose);
  }
  return poses;
}

std::vector<Measure> Relocalisation::measures() const {
  std::vector<Measure> measures = {
      {"metres", 3, true, "m", "median distance of the camera from where it was, over the test frames"},
      {"degrees", 2, true, "degrees", "median angle between its rotation and the true one"},
      {"within_fine", 1, false, "%", "share of the test frames within 0.25 m and 2 degrees"},
      {"within_coarse", 1, false, "%", "share of the test frames within 0.5 m and 5 degrees"}};
  if (memory()) add_usage_measures(measures, "memory's rows", "test frames");
  return measures;
}

Evaluation Relocalisation::evaluate() {
  const std::vector<int64_t>& test = opened_->split.test;
  CountedReads reads(memory());
  const std::vector<Pose> predicted = predict(test);
  reads.scope.reset();  // the training frames do not count
  const PoseErrors errors = pose_errors(predicted, opened_->poses_of(test));
  const std::vector<int64_t> train = spread_frames(opened_->split.train, kTrainFramesAsked);
  const PoseErrors train_errors = pose_errors(predict(train), opened_->poses_of(train));
  const auto [dense, table] = model_->options().parameters();
  Evaluation result{{errors.metres, errors.degrees, errors.within_fine, errors.within_coarse},
                    {{"images", test.size()},
                     {"train", measures_of(train_errors)},
                     {"parameters", dense},
                     {"multiply_adds", model_->options().multiply_adds(input_.shape.height, input_.shape.width)}}};
  if (reads.usage) add_usage(result, *reads.usage);
  return result;
}

std::vector<Baseline> Relocalisation::baselines(int64_t) {
  const PoseBaselines found =
      pose_baselines(opened_->images, opened_->poses, opened_->split.train, opened_->split.test);
  const int64_t frames = std::ssize(opened_->split.train), pixels = 40 * 30;
  return {{"constant", "the median training pose for every frame", 7, measures_of(found.constant)},
          {"nearest image", "the pose of the training frame that looks most alike (40 x 30 grey)",
           frames * (pixels + 7), measures_of(found.nearest_image)},
          {"oracle", "the nearest training pose: what no retrieval can be better than in metres", frames * 7,
           measures_of(found.oracle)}};
}

Account Relocalisation::account(const Evaluation& evaluation, const AccountOptions& options) {
  refuse_lengths(options);
  refuse_text_options(options);
  refuse_pictures(options);
  if (!model_->memory()) refuse_places(options);
  Account account;
  if (options.places) account = account_of_places(*model_, *opened_, input_.scale, seed(), options.progress);
  if (options.poses) account.json["poses"] = poses_json(*opened_, predict(opened_->split.test));
  const nlohmann::json& details = evaluation.details;
  const nlohmann::json& train = details.at("train");
  account.text = fmt::format(
                     "{} test frames; {} parameters without rows, {} multiply-adds a frame\n"
                     "training frames: {:.3f} m, {:.2f} degrees; test frames: {:.3f} m, {:.2f} degrees\n",
                     details.at("images").get<int64_t>(), details.at("parameters").get<int64_t>(),
                     format_count(details.at("multiply_adds").get<double>()), train.at("metres").get<double>(),
                     train.at("degrees").get<double>(), evaluation.values[0], evaluation.values[1]) +
                 account.text;
  return account;
}

int64_t Relocalisation::infer(int64_t position) {
  const std::vector<int64_t>& test = opened_->split.test;
  const auto count = std::min<int64_t>(kFramesAtOnce, std::ssize(test));
  const int64_t begin = position * count % (std::ssize(test) - count + 1);
  model_->forward(
      opened_->input(std::span(test).subspan(static_cast<size_t>(begin), static_cast<size_t>(count)), input_.scale));
  return count;
}

LoadedPosenet load_posenet(const RelocalisationPlan& plan, uint64_t seed, const CheckpointReader& checkpoint) {
  PixelInput input = PixelInput::load(checkpoint.file(PixelInput::kFile));
  auto model = std::make_shared<Posenet>(plan.model_of_data(), seed, serving_tables(checkpoint));
  load_network(checkpoint, *model, model->memory());
  return {std::move(model), std::move(input), plan.data.image};
}

}  // namespace loci
