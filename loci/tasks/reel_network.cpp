// Legend: B images of a batch.
#include "loci/tasks/reel_network.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cross_entropy_loss.h>
#include <ATen/ops/log_softmax.h>

#include "loci/base/check.h"
#include "loci/base/stop_signal.h"
#include "loci/tasks/network_size.h"

namespace loci {
namespace {

constexpr int64_t kReelClasses = 10;  // that sizes are estimated with

// Over all stages, by their weights.
double share_moved(const ReelNet& network) {
  const std::vector<double> shares = network.moved();
  const std::vector<ReelStage> stages = network.options().stages();
  double moved = 0;
  for (size_t i = 0; i < shares.size(); ++i) moved += shares[i] * static_cast<double>(stages[i].weights());
  return moved / static_cast<double>(network.options().parameters());
}

}  // namespace

void ReelNetworkPlan::fields(ConfigFields& f) {
  f.section("data", data);
  f.section("model", model);
}

ReelNetOptions ReelNetworkPlan::model_for(const ImageShape& shape, int64_t classes) const {
  ReelNetOptions options = model;
  options.channels = shape.channels;
  options.height = shape.height;
  options.width = shape.width;
  options.classes = classes;
  return options;
}

ReelNetOptions ReelNetworkPlan::assumed_model() const {
  return model_for({data.height(), data.width(), data.channels()}, kReelClasses);
}

void ReelNetworkPlan::check() const {
  check_image_size(data.folder.image);
  assumed_model().check();
}

RunSize ReelNetworkPlan::size(const BatchShape& batch, const RowOptimizerOptions&, bool) const {
  const ReelNetOptions options = assumed_model();
  RunSize size = network_size(options.parameters(), options.multiply_adds(), batch);
  if (options.of_reels()) {
    // The optimiser's state of one reel is counted with the dense parameters.
    size.memory.emplace_back("scores of reels", 4 * options.parameters() * options.reels);
    size.memory.emplace_back("velocities of further reels", 4 * options.parameters() * (options.reels - 1));
  }
  add_activations(size, 4 * options.kept_numbers(), batch);
  return size;
}

std::unique_ptr<Task> ReelNetworkPlan::make(const TaskInputs& inputs) const {
  return std::make_unique<ReelNetwork>(*this, inputs);
}

std::unique_ptr<TaskPlan> reel_network_plan() {
  return std::make_unique<ReelNetworkPlan>();
}

ReelNetwork::ReelNetwork(const ReelNetworkPlan& plan, const TaskInputs& inputs)
    : plan_(plan),
      batch_(inputs.batch),
      opened_(open_images(plan.data, inputs)),
      input_(input_of_run(opened_->input, inputs)),
      network_(std::make_shared<ReelNet>(plan.model_for(input_.shape, std::ssize(input_.classes)), inputs.seed)),
      feed_(opened_, input_, plan.data.augment, batch_, inputs.seed),
      progress_(inputs.progress) {}

at::Tensor ReelNetwork::loss(int64_t step, int64_t micro) {
  const ImageBatch batch = feed_.training(step, micro);
  const at::Tensor logits = network_->forward(batch.images);
  right_.add(logits, batch.labels);
  return at::cross_entropy_loss(logits, batch.labels);
}

std::vector<Measure> ReelNetwork::measures() const {
  std::vector<Measure> measures = ClassAccuracy::measures(std::ssize(input_.classes), "test image");
  measures[0].digits = 2;
  if (plan_.model.of_reels()) {
    measures.push_back({"moved", 1, false, "%", "share of the weights whose reel is not the one that they began with"});
  }
  return measures;
}

Evaluation ReelNetwork::evaluate() {
  ClassAccuracy found(std::ssize(input_.classes));
  for (int64_t index = 0; index < feed_.test_batches(); ++index) {
    StopSignal::check("stopped while the model was evaluated");
    if (progress_ != nullptr) progress_->show(fmt::format("evaluating: {} images", found.samples()));
    const ImageBatch batch = feed_.test(index);
    found.add(at::log_softmax(network_->forward(batch.images).to(at::kFloat), 1), batch.labels);
  }
  const ReelNetOptions& options = network_->options();
  Evaluation result{found.values(),
                    {{"images", found.samples()},
                     {"interval", found.interval()},
                     {"parameters", options.parameters()},
                     {"multiply_adds", options.multiply_adds()}}};
  if (options.of_reels()) {
    result.values.push_back(share_moved(*network_));
    result.details["reels"] = options.reels;
    result.details["moved_by_stage"] = network_->moved();
  }
  return result;
}

Account ReelNetwork::account(const Evaluation& evaluation, const AccountOptions& options) {
  Account account = Task::account(evaluation, options);
  const nlohmann::json& details = evaluation.details;
  account.text =
      fmt::format("{} test images; {} weights, {} multiply-adds an image; {}\n", details.at("images").get<int64_t>(),
                  details.at("parameters").get<int64_t>(), format_count(details.at("multiply_adds").get<double>()),
                  accuracy_text(evaluation.values[0], details.at("interval")));
  if (!details.contains("reels")) return account;
  account.text += fmt::format("{} fixed values of each weight; moved by stage:", details.at("reels").get<int64_t>());
  for (const nlohmann::json& share : details.at("moved_by_stage")) {
    account.text += fmt::format(" {:.1f} %", 100 * number_of(share));
  }
  account.text += "\n";
  return account;
}

int64_t ReelNetwork::infer(int64_t position) {
  const ImageBatch batch = feed_.test(position % feed_.test_batches());
  network_->forward(batch.images);
  return batch.labels.size(0);
}

}  // namespace loci
