// Legend: B images of a batch.
#include "loci/tasks/shapes_keypoints.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <cmath>

#include "loci/base/check.h"
#include "loci/base/stop_signal.h"
#include "loci/data/detection/average_precision.h"
#include "loci/nn/relation/non_local.h"
#include "loci/tasks/memory_task.h"
#include "loci/tasks/network_size.h"

namespace loci {
namespace {

constexpr int64_t kShapesAtOnce = 50;    // test images of a batch
constexpr uint64_t kShapesTestSeed = 0;  // for every run; the stream is another one than that of training
constexpr double kShapesMean = 0.5, kShapesDeviation = 0.25;

PixelInput shapes_input() {
  constexpr int64_t side = ShapesOptions::kSide;
  return {{side, side, 3}, {std::vector<double>(3, kShapesMean), std::vector<double>(3, kShapesDeviation)}};
}

nlohmann::json precision_json(const AveragePrecision& precision) {
  nlohmann::json classes = nlohmann::json::object();
  for (size_t label = 0; label < precision.by_class.size(); ++label) {
    const double value = precision.by_class[label];
    const char* name = shape_name(static_cast<int64_t>(label));
    classes[name] = std::isnan(value) ? nlohmann::json() : nlohmann::json(value);
  }
  return {{"by_threshold", precision.by_threshold}, {"by_class", classes}};
}

}  // namespace

void ShapesTaskData::fields(ConfigFields& f) {
  shapes.fields(f);
  f.field("test_images", test_images, "images of an evaluation, the same ones for every seed",
          {.minimum = 1, .maximum = 1 << 20});
}

void ShapesKeypointsPlan::fields(ConfigFields& f) {
  f.section("data", data);
  f.section("model", model);
}

RunSize ShapesKeypointsPlan::size(const BatchShape& batch, const RowOptimizerOptions&, bool bfloat16) const {
  RunSize size = network_size(model.parameters(), model.multiply_adds(), batch);
  // The batch of the step, the one that is made for the next, and one of an evaluation: image, mask, vote and heat.
  const int64_t images = checked_sum("config", "images", 2 * batch.per_micro_batch(), kShapesAtOnce);
  const int64_t numbers = 6 * ShapesOptions::pixels() + model.classes * model.map_side() * model.map_side();
  size.memory.emplace_back("data", checked_product("config", "bytes of images", images, 4 * numbers));
  // Masks of an evaluation's detections.
  size.memory.emplace_back("detections", data.test_images * CenterDetectorOptions::kMost * ShapesOptions::pixels() / 8);
  add_activations(size, model.kept_numbers() * (bfloat16 ? 2 : 4), batch);
  return size;
}

std::unique_ptr<Task> ShapesKeypointsPlan::make(const TaskInputs& inputs) const {
  return std::make_unique<ShapesKeypointsTask>(*this, inputs);
}

std::unique_ptr<TaskPlan> shapes_keypoints_plan() {
  return std::make_unique<ShapesKeypointsPlan>();
}

ShapesKeypointsTask::ShapesKeypointsTask(const ShapesKeypointsPlan& plan, const TaskInputs& inputs)
    : plan_(plan),
      batch_(inputs.batch),
      training_(plan.data.shapes, inputs.seed, "shapes_keypoints.training"),
      test_(plan.data.shapes, kShapesTestSeed, "shapes_keypoints.test"),
      model_(std::make_shared<CenterDetector>(plan.model, inputs.seed)),
      watch_(model_->non_local()),
      progress_(inputs.progress),
      batches_([this](int64_t position) {
        const int64_t count = batch_.per_micro_batch();
        return batch_of(training_, position * count, count);
      }) {}

ShapesKeypointsTask::Batch ShapesKeypointsTask::batch_of(const ShapesKeypoints& shapes, int64_t first,
                                                         int64_t count) const {
  constexpr int64_t side = ShapesOptions::kSide;
  Batch batch;
  const at::Tensor bytes = at::empty({count, side, side, 3}, at::kByte);
  for (int64_t i = 0; i < count; ++i) {
    batch.instances.push_back(shapes.draw(first + i, bytes.mutable_data_ptr<uint8_t>() + i * bytes[0].numel()));
  }
  batch.images = ((bytes.to(at::kFloat) / 255 - kShapesMean) / kShapesDeviation).permute({0, 3, 1, 2});
  batch.targets = center_targets(batch.instances, plan_.model);
  return batch;
}

int64_t ShapesKeypointsTask::test_batches() const {
  return (plan_.data.test_images + kShapesAtOnce - 1) / kShapesAtOnce;
}

ShapesKeypointsTask::Batch ShapesKeypointsTask::test_batch(int64_t index) const {
  const int64_t first = index * kShapesAtOnce;
  return batch_of(test_, first, std::min(kShapesAtOnce, plan_.data.test_images - first));
}

at::Tensor ShapesKeypointsTask::loss(int64_t step, int64_t micro) {
  const Batch batch = batches_.take(step * batch_.accumulation + micro);
  return center_loss(model_->forward(batch.images), batch.targets);
}

std::vector<Measure> ShapesKeypointsTask::measures() const {
  return {{"box_ap", 1, false, "%", "average precision of boxes, mean over overlaps 0.50 to 0.95"},
          {"mask_ap", 1, false, "%", "the same of masks"},
          {"keypoint_ap", 1, false, "%", "the same by the similarity of keypoints"},
          {"loss", 3, true, "", "that of training, on the test images"}};
}

Evaluation ShapesKeypointsTask::evaluate() {
  std::vector<DetectedImage> answers;
  double loss = 0;
  int64_t instances = 0;
  for (int64_t index = 0; index < test_batches(); ++index) {
    StopSignal::check("stopped while the model was evaluated");
    if (progress_ != nullptr) progress_->show(fmt::format("evaluating: {} images", answers.size()));
    Batch batch = test_batch(index);
    const CenterOutputs outputs = model_->forward(batch.images);
    loss += center_loss(outputs, batch.targets).item<double>() * static_cast<double>(batch.images.size(0));
    std::vector<std::vector<Detection>> found = center_detections(outputs);
    for (size_t i = 0; i < found.size(); ++i) {
      instances += std::ssize(batch.instances[i]);
      answers.push_back({std::move(batch.instances[i]), std::move(found[i])});
    }
  }
  Evaluation evaluation{{}, {{"images", answers.size()}, {"instances", instances}}};
  for (const auto& [name, kind] : {std::pair("box", Similarity::box), std::pair("mask", Similarity::mask),
                                   std::pair("keypoint", Similarity::keypoints)}) {
    const AveragePrecision precision = average_precision(answers, kind, ShapesOptions::kClasses);
    evaluation.values.push_back(precision.mean);
    evaluation.details[name] = precision_json(precision);
  }
  evaluation.values.push_back(loss / static_cast<double>(answers.size()));
  evaluation.details["parameters"] = plan_.model.parameters();
  evaluation.details["multiply_adds"] = plan_.model.multiply_adds();
  return evaluation;
}

Account ShapesKeypointsTask::account(const Evaluation& evaluation, const AccountOptions& options) {
  Account account = Task::account(evaluation, options);
  const nlohmann::json& details = evaluation.details;
  account.text =
      fmt::format("{} test images with {} instances ({}); {} parameters, {} multiply-adds an image\n",
                  details.at("images").get<int64_t>(), details.at("instances").get<int64_t>(), plan_.data.shapes.text(),
                  details.at("parameters").get<int64_t>(), format_count(details.at("multiply_adds").get<double>()));
  for (const char* name : {"box", "mask", "keypoint"}) {
    const auto by_threshold = details.at(name).at("by_threshold").get<std::vector<double>>();
    account.text +=
        fmt::format("{:8}  AP at 0.50 {:.1f} %, at 0.75 {:.1f} %", name, 100 * by_threshold[0], 100 * by_threshold[5]);
    for (const auto& [label, value] : details.at(name).at("by_class").items()) {
      account.text += value.is_null() ? fmt::format(", no {}", label)
                                      : fmt::format(", {} {:.1f} %", label, 100 * value.get<double>());
    }
    account.text += "\n";
  }
  return account;
}

int64_t ShapesKeypointsTask::infer(int64_t position) {
  const Batch batch = test_batch(position % test_batches());
  center_detections(model_->forward(batch.images));
  return batch.images.size(0);
}

std::vector<std::pair<std::string, std::string>> ShapesKeypointsTask::files() {
  return {{PixelInput::kFile, shapes_input().save()}};
}

std::string ShapesKeypointsTask::data_key() const {
  return "shapes_keypoints: " + plan_.data.shapes.text();
}

LoadedCenterDetector load_center_detector(const ShapesKeypointsPlan& plan, uint64_t seed,
                                          const CheckpointReader& checkpoint) {
  PixelInput input = PixelInput::load(checkpoint.file(PixelInput::kFile));
  auto model = std::make_shared<CenterDetector>(plan.model, seed);
  load_network(checkpoint, *model, nullptr);
  return {std::move(model), std::move(input), {}};
}

nlohmann::json detection_json(const Detection& detection) {
  const Instance& found = detection.instance;
  nlohmann::json keypoints = nlohmann::json::array(), lengths = nlohmann::json::array();
  for (const ImagePoint& point : found.keypoints) keypoints.push_back({point.x, point.y});
  bool inside = false;
  int64_t length = 0;
  for (int64_t pixel = 0; pixel < ShapesOptions::pixels(); ++pixel, ++length) {
    if (found.mask.has(pixel) == inside) continue;
    lengths.push_back(length);
    inside = !inside;
    length = 0;
  }
  lengths.push_back(length);
  return {{"class", shape_name(found.label)},
          {"score", detection.score},
          {"box", {found.box.x0, found.box.y0, found.box.x1, found.box.y1}},
          {"keypoints", keypoints},
          {"mask", lengths}};
}

}  // namespace loci
