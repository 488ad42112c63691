// Legend: B images of a batch.
#include "loci/tasks/binary_network.h"

#include <ATen/TensorOperators.h>

#include <span>

#include "loci/base/check.h"
#include "loci/base/checksum.h"
#include "loci/nn/small/binary_layers.h"
#include "loci/tasks/network_size.h"
#include "loci/train/checkpoint.h"
#include "loci/train/tensor_file.h"

namespace loci {
namespace {

// A network's input as whole numbers 2 p - 255 of pixels p of 0 .. 255.
at::Tensor whole_numbers(const at::Tensor& images, const ChannelScale& scale) {
  return (pixels_of(images, scale) * 255).round().clamp(0, 255) * 2 - 255;
}

}  // namespace

void BinaryNetworkPlan::fields(ConfigFields& f) {
  f.section("data", data);
  f.section("model", model);
}

BinaryNetOptions BinaryNetworkPlan::model_for(const ImageShape& shape, int64_t classes) const {
  return options_for_images(model, shape, classes);
}

BinaryNetOptions BinaryNetworkPlan::assumed_model() const {
  return model_for({data.height(), data.width(), data.channels()}, kAssumedClasses);
}

void BinaryNetworkPlan::check() const {
  check_image_size(data.folder.image);
  assumed_model().check();
}

RunSize BinaryNetworkPlan::size(const BatchShape& batch, const RowOptimizerOptions&, bool) const {
  const BinaryNetOptions options = assumed_model();
  RunSize size = network_size(options.parameters(), options.multiply_adds(), batch);
  if (options.packed) {
    size.memory = {{"signs and thresholds", options.bytes(true)}};
    return size;
  }
  add_activations(size, 4 * options.kept_numbers(), batch);
  return size;
}

std::unique_ptr<Task> BinaryNetworkPlan::make(const TaskInputs& inputs) const {
  return std::make_unique<BinaryNetwork>(*this, inputs);
}

std::vector<std::pair<std::string, at::Tensor>> BinaryNetworkPlan::pack(const CheckpointReader& checkpoint) {
  if (model.packed) fail(ExitCode::usage, "convert", "RUN must have been trained", "a packed one");
  const ImageInput input = ImageInput::load(checkpoint.file(ImageInput::kFile));
  BinaryNet network(model_for(input.shape, std::ssize(input.classes)), 0);
  load_model(checkpoint, network, {});
  const PackedNet packed(network);
  model.packed = true;
  std::vector<std::pair<std::string, at::Tensor>> tensors;
  for (const auto& buffer : packed.named_buffers()) tensors.emplace_back(buffer.key(), buffer.value());
  return tensors;
}

std::unique_ptr<TaskPlan> binary_network_plan() {
  return std::make_unique<BinaryNetworkPlan>();
}

BinaryNetwork::BinaryNetwork(const BinaryNetworkPlan& plan, const TaskInputs& inputs)
    : ImageNetworkTask(plan.data, inputs), model_(plan.model_for(input().shape, classes())) {
  if (model_.packed && inputs.training) {
    fail(ExitCode::usage, "config", "model.packed must be false in training", "true");
  }
  if (model_.packed) {
    packed_ = std::make_shared<PackedNet>(model_);
  } else {
    network_ = std::make_shared<BinaryNet>(model_, inputs.seed);
  }
}

torch::nn::Module& BinaryNetwork::module() {
  if (packed_) return *packed_;
  return *network_;
}

std::vector<NamedParameter> BinaryNetwork::dense_parameters() {
  return packed_ ? std::vector<NamedParameter>{} : network_->dense_parameters();
}

at::Tensor BinaryNetwork::scores(const at::Tensor& images) {
  const at::Tensor whole = whole_numbers(images, input().scale);
  return packed_ ? packed_->forward(whole) : network_->forward(whole);
}

at::Tensor BinaryNetwork::loss_of(const at::Tensor& scores, const at::Tensor& labels) const {
  return squared_hinge_loss(scores, labels);
}

std::vector<Measure> BinaryNetwork::measures() const {
  return {{"accuracy", 2, false, "%", "share of the test images whose class is named first"},
          {"loss", 4, true, "", "squared hinge of a test image's scores"}};
}

Evaluation BinaryNetwork::evaluate() {
  if (packed_) packed_->check("the packed network");
  int64_t images = 0, right = 0;
  double loss = 0;
  Checksum sum;
  over_test([&](const at::Tensor& scores, const at::Tensor& labels) {
    const at::Tensor score = scores.contiguous();
    right += score.argmax(1).eq(labels).sum().item<int64_t>();
    loss += loss_of(score, labels).item<double>() * static_cast<double>(score.size(0));
    images += score.size(0);
    sum.add(std::as_bytes(std::span(score.const_data_ptr<float>(), static_cast<size_t>(score.numel()))));
  });
  const auto all = static_cast<double>(images);
  return {{static_cast<double>(right) / all, loss / all},
          {{"images", images},
           {"parameters", model_.parameters()},
           {"bytes", model_.bytes(model_.packed)},
           {"multiply_adds", model_.multiply_adds()},
           {"scores", sum.text()}}};
}

Account BinaryNetwork::account(const Evaluation& evaluation, const AccountOptions& options) {
  Account account = Task::account(evaluation, options);
  const nlohmann::json& details = evaluation.details;
  account.text =
      fmt::format("{} test images; {} parameters in {} bytes{}, {} multiply-adds an image\nsum of all scores: {}\n",
                  details.at("images").get<int64_t>(), details.at("parameters").get<int64_t>(),
                  details.at("bytes").get<int64_t>(), model_.packed ? ", packed" : "",
                  format_count(details.at("multiply_adds").get<double>()), details.at("scores").get<std::string>());
  return account;
}

}  // namespace loci
