// Legend: B images of a batch, C channels.
#include "loci/tasks/image_classification.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/Reduction.h>
#include <ATen/ops/cross_entropy_loss.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/topk.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <optional>

#include "loci/base/check.h"
#include "loci/base/durable_file.h"
#include "loci/base/stop_signal.h"
#include "loci/data/image/idx_file.h"
#include "loci/train/checkpoint.h"
#include "loci/train/table_home.h"

namespace loci {
namespace {

constexpr const char* kImageInputFile = "images.json";
constexpr int64_t kEvaluatedImages = 250;  // at once
constexpr int64_t kBest = 5;               // classes of the measure top_5

// As many as the recipe asks for, evenly spread over the folder's, which are in the order of their classes.
LabelledImages spread_images(const LabelledImages& all, int64_t wanted) {
  const int64_t count = all.images.size();
  if (wanted > count) {
    fail(ExitCode::usage, "data.train_images", fmt::format("it must be at most the folder's {}", count),
         fmt::to_string(wanted));
  }
  const ImageShape shape = all.images.shape();
  std::vector<uint8_t> pixels(static_cast<size_t>(wanted * shape.bytes()));
  LabelledImages result;
  for (int64_t i = 0; i < wanted; ++i) {
    const int64_t item = i * count / wanted;
    all.images.read(item, pixels.data() + i * shape.bytes());
    result.labels.push_back(all.labels[static_cast<size_t>(item)]);
  }
  result.images = ImageSet(shape, std::move(pixels));
  return result;
}

std::shared_ptr<const OpenedImages> open_images(const ImageClassificationPlan& plan, const TaskInputs& inputs) {
  if (auto opened = std::dynamic_pointer_cast<const OpenedImages>(inputs.opened)) return opened;
  auto opened = std::make_shared<OpenedImages>();
  opened->data = load_image_folder(inputs.data, plan.data.folder, *inputs.progress);
  for (const std::string& notice : opened->data.notices) inputs.progress->finish(notice);
  if (plan.data.train_images > 0) {
    opened->data.train = spread_images(opened->data.train, plan.data.train_images);
    opened->data.inventory.settings += fmt::format("train_images = {}\n", plan.data.train_images);
  }
  for (const std::string& name : opened->data.classes) opened->input.classes.push_back(printable(name));
  opened->input.shape = opened->data.train.images.shape();
  opened->input.scale = channel_scale(opened->data.train.images);
  return opened;
}

// That of the checkpoint, if there is one: other data are read as those that the network was trained on.
ImageInput input_of_run(const OpenedImages& opened, const TaskInputs& inputs) {
  if (inputs.checkpoint.empty()) return opened.input;
  ImageInput kept = ImageInput::load(inputs.checkpoint / kImageInputFile);
  if (opened.input.classes != kept.classes) {
    const auto other = std::ranges::find_if(
        opened.input.classes, [&](const auto& name) { return std::ranges::count(kept.classes, name) == 0; });
    fail(ExitCode::input, inputs.data.string(),
         fmt::format("the classes must be the {} of the run", kept.classes.size()),
         other != opened.input.classes.end() ? *other : fmt::format("{} of them", opened.input.classes.size()));
  }
  if (opened.input.shape != kept.shape) {
    const auto text = [](const ImageShape& s) { return fmt::format("{} x {} x {}", s.height, s.width, s.channels); };
    fail(ExitCode::input, inputs.data.string(), fmt::format("images must be {} as the run's", text(kept.shape)),
         text(opened.input.shape));
  }
  return kept;
}

}  // namespace

std::string ImageInput::save() const {
  return nlohmann::json{{"classes", classes},         {"height", shape.height}, {"width", shape.width},
                        {"channels", shape.channels}, {"mean", scale.mean},     {"deviation", scale.deviation}}
             .dump() +
         "\n";
}

ImageInput ImageInput::load(const std::filesystem::path& path) {
  const auto refuse = [&](const std::string& got) {
    fail(ExitCode::input, path.string(), "the file must say classes, size and scale of a run's images", got);
  };
  ImageInput input;
  try {
    const nlohmann::json json = nlohmann::json::parse(read_text_file(path));
    json.at("classes").get_to(input.classes);
    json.at("height").get_to(input.shape.height);
    json.at("width").get_to(input.shape.width);
    json.at("channels").get_to(input.shape.channels);
    json.at("mean").get_to(input.scale.mean);
    json.at("deviation").get_to(input.scale.deviation);
  } catch (const nlohmann::json::exception& error) {
    refuse(error.what());
  }
  const ImageShape& shape = input.shape;
  constexpr int64_t most = 1 << 20;
  if (shape.height < 1 || shape.height > most || shape.width < 1 || shape.width > most ||
      (shape.channels != 1 && shape.channels != 3)) {
    refuse(fmt::format("a size of {} x {} x {}", shape.height, shape.width, shape.channels));
  }
  const bool positive = std::ranges::all_of(input.scale.deviation, [](double value) { return value > 0; });
  if (std::ssize(input.scale.mean) != shape.channels || std::ssize(input.scale.deviation) != shape.channels ||
      !positive || input.classes.empty()) {
    refuse("others");
  }
  return input;
}

std::unique_ptr<Task> ImageClassificationPlan::make(const TaskInputs& inputs) const {
  return std::make_unique<ImageClassification>(*this, inputs);
}

std::unique_ptr<TaskPlan> image_classification_plan() {
  return std::make_unique<ImageClassificationPlan>();
}

ImageClassification::ImageClassification(const ImageClassificationPlan& plan, const TaskInputs& inputs)
    : plan_(plan),
      batch_(inputs.batch),
      rows_(inputs.rows),
      opened_(open_images(plan, inputs)),
      input_(input_of_run(*opened_, inputs)),
      model_(std::make_shared<Resnet>(plan.model_for(std::ssize(input_.classes)), inputs.seed, inputs.tables)),
      sampler_(opened_->data.train, input_.scale, plan.data.augment, batch_.per_micro_batch(), inputs.seed,
               batch_.accumulation),
      test_(opened_->data.test, input_.scale, kEvaluatedImages),
      right_(at::zeros({2}, at::kLong)),
      progress_(inputs.progress),
      batches_([this](int64_t position) { return training_batch(position); }) {
  std::vector<WatchedMemory> watched;
  if (model_->memory()) watched.push_back({model_->memory_layer(), model_->memory()});
  watch_ = std::make_unique<MemoryWatch>(watched);
  const ResnetMemoryOptions& memory = plan.model.memory;
  if (plan.model.has_memory && memory.has_reinitialise) {
    watch_->reinitialise(memory.reinitialise, memory.row_deviation(plan.model.stage_channels(memory.stage - 1)),
                         inputs.seed);
  }
}

std::vector<std::pair<TablePtr, RowOptimizerOptions>> ImageClassification::tables() {
  if (!model_->memory()) return {};
  return {{model_->memory()->table(), rows_}};
}

ImageClassification::Batch ImageClassification::empty_batch(int64_t images) const {
  const at::Tensor pixels =
      at::empty({images, input_.shape.height, input_.shape.width, input_.shape.channels}, at::kFloat);
  return {pixels.permute({0, 3, 1, 2}), at::empty({images}, at::kLong)};
}

ImageClassification::Batch ImageClassification::training_batch(int64_t position) const {
  Batch batch = empty_batch(batch_.per_micro_batch());
  sampler_.fill(position / batch_.accumulation, position % batch_.accumulation, batch.images.mutable_data_ptr<float>(),
                batch.labels.mutable_data_ptr<int64_t>());
  return batch;
}

ImageClassification::Batch ImageClassification::test_batch(int64_t index) const {
  const Batch batch = empty_batch(kEvaluatedImages);
  const int64_t count =
      test_.fill(index, batch.images.mutable_data_ptr<float>(), batch.labels.mutable_data_ptr<int64_t>());
  return {batch.images.narrow(0, 0, count), batch.labels.narrow(0, 0, count)};
}

at::Tensor ImageClassification::loss(int64_t step, int64_t micro) {
  const Batch batch = batches_.take(step * batch_.accumulation + micro);
  const auto observed = watch_->observe();
  const at::Tensor logits = model_->forward(batch.images);
  auto* right = right_.mutable_data_ptr<int64_t>();
  right[0] += logits.detach().argmax(1).eq(batch.labels).sum().item<int64_t>();
  right[1] += batch.labels.size(0);
  return at::cross_entropy_loss(logits, batch.labels);
}

nlohmann::json ImageClassification::training_measures(bool whole) {
  nlohmann::json measures = watch_->training_measures(whole);
  auto* right = right_.mutable_data_ptr<int64_t>();
  measures["train_accuracy"] = nullptr;
  if (right[1] > 0) measures["train_accuracy"] = static_cast<double>(right[0]) / static_cast<double>(right[1]);
  right_.zero_();
  return measures;
}

std::vector<std::pair<std::string, at::Tensor>> ImageClassification::extra_state() {
  auto state = watch_->extra_state();
  state.emplace_back("right", right_);
  return state;
}

std::vector<Measure> ImageClassification::measures() const {
  std::vector<Measure> measures = {{"accuracy", 1, false, "%", "share of the test images whose class is the likeliest"},
                                   {"loss", 3, true, "nats", "what the network misses of the classes, per test image"}};
  if (std::ssize(input_.classes) > kBest) {
    measures.push_back({"top_5", 1, false, "%", "share of the test images whose class is among the five likeliest"});
  }
  if (model_->memory()) {
    measures.push_back({"usage", 1, false, "%", "share of the memory's rows that the test images read"});
    measures.push_back(
        {"kl", 2, true, "nats", "how unevenly they read them: 0 when every row carries the same weight"});
  }
  return measures;
}

Evaluation ImageClassification::evaluate() {
  std::shared_ptr<Usage> usage;
  std::optional<ObserverScope> counting;
  if (model_->memory()) {
    usage = std::make_shared<Usage>(model_->memory()->table()->rows());
    counting.emplace(*model_->memory(), usage);
  }
  const int64_t best = std::min(kBest, std::ssize(input_.classes));
  double nats = 0;
  int64_t right = 0, among_best = 0, images = 0;
  for (int64_t index = 0; index < test_.batches(); ++index) {
    StopSignal::check("stopped while the model was evaluated");
    if (progress_ != nullptr) progress_->show(fmt::format("evaluating: {} images", images));
    const Batch batch = test_batch(index);
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
  if (!usage) return result;
  const UsageMetrics metrics = usage->metrics();
  result.values.push_back(metrics.usage);
  result.values.push_back(metrics.kl);
  result.details["memories"] = {usage_facts(model_->memory_layer(), metrics)};
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
  const Batch batch = test_batch(position % test_.batches());
  model_->forward(batch.images);
  return batch.labels.size(0);
}

std::vector<std::pair<std::string, std::string>> ImageClassification::files() {
  return {{kImageInputFile, input_.save()}};
}

nlohmann::json ImageClassification::data_facts() const {
  return {{"training images", opened_->data.train.images.size()},
          {"test images", opened_->data.test.images.size()},
          {"classes", input_.classes.size()},
          {"height", input_.shape.height},
          {"width", input_.shape.width},
          {"channels", input_.shape.channels}};
}

LoadedImageClassifier load_image_classifier(const RunConfig& config, const CheckpointReader& checkpoint) {
  const auto* plan = dynamic_cast<const ImageClassificationPlan*>(config.plan.get());
  if (plan == nullptr) fail(ExitCode::usage, "predict", "the run must be of image_classification", config.task);
  ImageInput input = ImageInput::load(checkpoint.file(kImageInputFile));
  auto model = std::make_shared<Resnet>(plan->model_for(std::ssize(input.classes)), static_cast<uint64_t>(config.seed),
                                        serving_tables(checkpoint));
  std::vector<TablePtr> tables;
  if (model->memory()) tables.push_back(model->memory()->table());
  load_model(checkpoint, *model, tables);
  model->eval();
  return {std::move(model), std::move(input), plan->data.folder.image};
}

}  // namespace loci
