// What tasks of classification count: training samples that are classified well, and the measures of an evaluation.
//
// Legend: B samples of a batch.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "loci/train/measure.h"

namespace loci {

// Since the last line of the log. Losses that are taken without a gradient, for weights that are only tried, do not
// count.
class TrainingAccuracy {
 public:
  TrainingAccuracy();
  void add(const at::Tensor& logits, const at::Tensor& labels);
  // {"train_accuracy": share, or null without samples}; counting begins anew.
  nlohmann::json take();
  // To save and to copy into.
  std::pair<std::string, at::Tensor> state() const { return {"right", right_}; }

 private:
  at::Tensor right_;  // [2] int64: samples classified well, and all
};

// Accuracy, loss and, with more than five classes, top_5.
class ClassAccuracy {
 public:
  explicit ClassAccuracy(int64_t classes) : classes_(classes) {}
  // Logarithms of probabilities [B, classes].
  void add(const at::Tensor& logarithm, const at::Tensor& labels);

  // sample: "test clip".
  static std::vector<Measure> measures(int64_t classes, const std::string& sample);
  int64_t samples() const { return samples_; }
  std::vector<double> values() const;
  nlohmann::json interval() const;  // [low, high] of the accuracy, 95 %

 private:
  int64_t classes_;
  int64_t samples_ = 0, right_ = 0, among_best_ = 0;
  double nats_ = 0;
};

// "accuracy 91.2 %, 95 % interval 90.1 to 92.2 %"; interval: ClassAccuracy::interval().
std::string accuracy_text(double accuracy, const nlohmann::json& interval);

}  // namespace loci
