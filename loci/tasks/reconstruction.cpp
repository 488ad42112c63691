// Legend: B images of a batch, C channels.
#include "loci/tasks/reconstruction.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/Reduction.h>
#include <ATen/ops/mse_loss.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>

#include "loci/base/check.h"
#include "loci/base/config.h"
#include "loci/base/stop_signal.h"
#include "loci/tasks/network_size.h"
#include "loci/train/table_home.h"

namespace loci {
namespace {

// Reads of a quantiser: one code a position, with weight 1.
void count_codes(Usage& usage, const at::Tensor& index) {
  MemoryReads reads;
  reads.index = index.view({-1, 1, 1});
  reads.weight = at::ones(reads.index.sizes());
  usage.reads(reads);
}

void check_code_shape(const ImageShape& shape, const std::string& data) {
  constexpr int64_t step = AutoencoderOptions::kReduction;
  if (shape.height % step == 0 && shape.width % step == 0) return;
  fail(ExitCode::usage, data, fmt::format("edges of images must be multiples of {} (see data.size)", step),
       fmt::format("{} x {}", shape.height, shape.width));
}

}  // namespace

void ReconstructionPlan::fields(ConfigFields& f) {
  f.section("data", data);
  f.section("model", model);
}

AutoencoderOptions ReconstructionPlan::model_of_data() const {
  AutoencoderOptions options = model;
  options.channels = data.channels();
  return options;
}

void ReconstructionPlan::check() const {
  check_image_size(data.folder.image);
  if (!data.folder.image.size.empty()) check_code_shape({data.height(), data.width(), 1}, "data.size");
  model.check();
}

RunSize ReconstructionPlan::size(const BatchShape& batch, const RowOptimizerOptions& rows, bool bfloat16) const {
  const AutoencoderOptions options = model_of_data();
  const double small = bfloat16 ? 2 : 4;
  const double pixels = static_cast<double>(data.height()) * static_cast<double>(data.width());
  // Outputs of convolutions and norms, a quarter, a sixteenth and a 64th of the pixels both ways; the code; images.
  const auto width = static_cast<double>(options.width);
  double image_bytes = pixels * (4 * width / 4 + 8 * width / 16 + 8 * width / 64) * small +
                       pixels * static_cast<double>(options.channels) * 16;
  const double positions = pixels / (AutoencoderOptions::kReduction * AutoencoderOptions::kReduction);

  RunSize size = network_size(options.parameters().first, options.multiply_adds(data.height(), data.width()), batch);
  if (options.has_memory) {
    image_bytes += positions * options.memory.position_bytes(options.code_width, small);
    add_map_memory(size, options.memory, options.code_width, rows);
  }
  if (options.has_quantiser) {
    size.memory.emplace_back(
        "codes", checked_product("config", "bytes of codes", options.quantiser.codes, 8 * options.code_width + 4));
    size.counter_bytes =
        checked_product("config", "bytes of counters", options.quantiser.codes, static_cast<int64_t>(sizeof(RowUsage)));
  }
  add_activations(size, image_bytes, batch);
  return size;
}

std::unique_ptr<Task> ReconstructionPlan::make(const TaskInputs& inputs) const {
  return std::make_unique<ReconstructionTask>(*this, inputs);
}

std::unique_ptr<TaskPlan> reconstruction_plan() {
  return std::make_unique<ReconstructionPlan>();
}

ReconstructionTask::ReconstructionTask(const ReconstructionPlan& plan, const TaskInputs& inputs)
    : MemoryTask(inputs),
      plan_(plan),
      opened_(open_images(plan.data, inputs)),
      input_(input_of_run(opened_->input, inputs)),
      model_(std::make_shared<Autoencoder>(plan.model_of_data(), inputs.seed, inputs.tables)),
      feed_(opened_, input_, plan.data.augment, batch_shape(), inputs.seed),
      replaced_(at::zeros({2}, at::kLong)),
      progress_(inputs.progress) {
  check_code_shape(input_.shape, inputs.data.string());
  watch(model_->memory());
  const AutoencoderOptions& model = plan.model;
  if (model.has_memory && model.memory.has_reinitialise) {
    reinitialise(model.memory.reinitialise, MapMemoryOptions::row_deviation(model.code_width));
  }
}

at::Tensor ReconstructionTask::loss(int64_t step, int64_t micro) {
  const ImageBatch batch = feed_.training(step, micro);
  const auto observed = observe();
  const Reconstruction found = model_->forward(batch.images);
  if (model_->quantiser()) {
    auto* replaced = replaced_.mutable_data_ptr<int64_t>();
    replaced[0] += model_->quantiser()->replaced();
    ++replaced[1];
  }
  const at::Tensor error = at::mse_loss(found.images, pixels_of(batch.images, input_.scale));
  return found.loss.defined() ? error + found.loss : error;
}

nlohmann::json ReconstructionTask::training_measures(bool whole) {
  nlohmann::json measures = MemoryTask::training_measures(whole);
  if (!model_->quantiser()) return measures;
  auto* replaced = replaced_.mutable_data_ptr<int64_t>();
  if (replaced[1] > 0) {
    measures["codes_replaced"] = static_cast<double>(replaced[0]) / static_cast<double>(replaced[1]);
  }
  replaced_.zero_();
  return measures;
}

std::vector<std::pair<std::string, at::Tensor>> ReconstructionTask::extra_state() {
  auto state = MemoryTask::extra_state();
  state.emplace_back("replaced", replaced_);
  return state;
}

std::vector<Measure> ReconstructionTask::measures() const {
  std::vector<Measure> measures = {{"psnr", 2, false, "dB", "-10 log10 of the mean squared error, values of 0 .. 1"},
                                   {"mse", 5, true, "", "mean squared error over pixels and channels"}};
  if (memory()) add_usage_measures(measures, "memory's rows", "test images");
  if (model_->quantiser()) add_usage_measures(measures, "codes", "test images");
  return measures;
}

Evaluation ReconstructionTask::evaluate() {
  CountedReads reads(memory());
  if (model_->quantiser()) reads.usage = std::make_shared<Usage>(model_->quantiser()->codes.size(0));
  double squares = 0;
  int64_t images = 0;
  for (int64_t index = 0; index < feed_.test_batches(); ++index) {
    StopSignal::check("stopped while the model was evaluated");
    if (progress_ != nullptr) progress_->show(fmt::format("evaluating: {} images", images));
    const ImageBatch batch = feed_.test(index);
    const Reconstruction found = model_->forward(batch.images);
    squares += at::mse_loss(found.images.clamp(0, 1), pixels_of(batch.images, input_.scale), at::Reduction::Sum)
                   .item<double>();
    if (found.index.defined()) count_codes(*reads.usage, found.index);
    images += batch.labels.size(0);
  }
  const double error = squares / static_cast<double>(images * input_.shape.bytes());
  Evaluation result{{-10 * std::log10(error), error},
                    {{"images", images},
                     {"parameters", model_->options().parameters().first},
                     {"multiply_adds", model_->options().multiply_adds(input_.shape.height, input_.shape.width)}}};
  if (reads.usage) add_usage(result, *reads.usage);
  return result;
}

Account ReconstructionTask::account(const Evaluation& evaluation, const AccountOptions& options) {
  Account account = Task::account(evaluation, options);
  const nlohmann::json& details = evaluation.details;
  account.text = fmt::format("{} test images; {} parameters without rows, {} multiply-adds an image\n",
                             details.at("images").get<int64_t>(), details.at("parameters").get<int64_t>(),
                             format_count(details.at("multiply_adds").get<double>()));
  return account;
}

int64_t ReconstructionTask::infer(int64_t position) {
  const ImageBatch batch = feed_.test(position % feed_.test_batches());
  model_->forward(batch.images);
  return batch.labels.size(0);
}

LoadedAutoencoder load_autoencoder(const ReconstructionPlan& plan, uint64_t seed, const CheckpointReader& checkpoint) {
  ImageInput input = ImageInput::load(checkpoint.file(ImageInput::kFile));
  auto model = std::make_shared<Autoencoder>(plan.model_of_data(), seed, serving_tables(checkpoint));
  load_network(checkpoint, *model, model->memory());
  return {std::move(model), std::move(input), plan.data.folder.image};
}

}  // namespace loci
