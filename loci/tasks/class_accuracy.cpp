// Legend: B samples of a batch.
#include "loci/tasks/class_accuracy.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/Reduction.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/nll_loss.h>
#include <ATen/ops/topk.h>
#include <ATen/ops/zeros.h>
#include <fmt/format.h>

#include <algorithm>

#include "loci/base/wilson.h"

namespace loci {
namespace {

constexpr int64_t kBest = 5;  // classes of the measure top_5

}  // namespace

TrainingAccuracy::TrainingAccuracy() : right_(at::zeros({2}, at::kLong)) {}

void TrainingAccuracy::add(const at::Tensor& logits, const at::Tensor& labels) {
  if (!at::GradMode::is_enabled()) return;
  auto* right = right_.mutable_data_ptr<int64_t>();
  right[0] += logits.detach().argmax(1).eq(labels).sum().item<int64_t>();
  right[1] += labels.size(0);
}

nlohmann::json TrainingAccuracy::take() {
  nlohmann::json measures = {{"train_accuracy", nullptr}};
  const auto* right = right_.const_data_ptr<int64_t>();
  if (right[1] > 0) measures["train_accuracy"] = static_cast<double>(right[0]) / static_cast<double>(right[1]);
  right_.zero_();
  return measures;
}

void ClassAccuracy::add(const at::Tensor& logarithm, const at::Tensor& labels) {
  nats_ += at::nll_loss(logarithm, labels, {}, at::Reduction::Sum).item<double>();
  const auto best = std::get<1>(at::topk(logarithm, std::min(kBest, classes_), 1));
  const at::Tensor found = best.eq(labels.unsqueeze(1));  // [B, best]
  right_ += found.select(1, 0).sum().item<int64_t>();
  among_best_ += found.sum().item<int64_t>();
  samples_ += labels.size(0);
}

std::vector<Measure> ClassAccuracy::measures(int64_t classes, const std::string& sample) {
  std::vector<Measure> measures = {
      {"accuracy", 1, false, "%", fmt::format("share of the {}s whose class is the likeliest", sample)},
      {"loss", 3, true, "nats", fmt::format("what the network misses of the classes, per {}", sample)}};
  if (classes > kBest) {
    measures.push_back(
        {"top_5", 1, false, "%", fmt::format("share of the {}s whose class is among the five likeliest", sample)});
  }
  return measures;
}

std::vector<double> ClassAccuracy::values() const {
  const auto all = static_cast<double>(samples_);
  std::vector<double> values = {static_cast<double>(right_) / all, nats_ / all};
  if (classes_ > kBest) values.push_back(static_cast<double>(among_best_) / all);
  return values;
}

nlohmann::json ClassAccuracy::interval() const {
  const Interval interval = wilson_interval(right_, samples_);
  return {interval.low, interval.high};
}

std::string accuracy_text(double accuracy, const nlohmann::json& interval) {
  return fmt::format("accuracy {:.1f} %, 95 % interval {:.1f} to {:.1f} %", 100 * accuracy,
                     100 * interval.at(0).get<double>(), 100 * interval.at(1).get<double>());
}

}  // namespace loci
