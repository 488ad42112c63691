// Legend: B images of a batch.
#include "loci/tasks/reel_network.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/log_softmax.h>

#include "loci/base/check.h"
#include "loci/tasks/network_size.h"

namespace loci {
namespace {

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
  return options_for_images(model, shape, classes);
}

ReelNetOptions ReelNetworkPlan::assumed_model() const {
  return model_for({data.height(), data.width(), data.channels()}, kAssumedClasses);
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
    : ImageNetworkTask(plan.data, inputs),
      network_(std::make_shared<ReelNet>(plan.model_for(input().shape, classes()), inputs.seed)) {}

std::vector<Measure> ReelNetwork::measures() const {
  std::vector<Measure> measures = ClassAccuracy::measures(classes(), "test image");
  measures[0].digits = 2;
  if (network_->options().of_reels()) {
    measures.push_back({"moved", 1, false, "%", "share of the weights whose reel is not the one that they began with"});
  }
  return measures;
}

Evaluation ReelNetwork::evaluate() {
  ClassAccuracy found(classes());
  over_test([&](const at::Tensor& scores, const at::Tensor& labels) {
    found.add(at::log_softmax(scores.to(at::kFloat), 1), labels);
  });
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

}  // namespace loci
