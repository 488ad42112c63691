#include "loci/tasks/class_accuracy.h"

#include <ATen/ops/log_softmax.h>
#include <ATen/ops/tensor.h>
#include <gtest/gtest.h>

#include "loci/base/wilson.h"

namespace loci {
namespace {

TEST(ClassAccuracy, CountsOverBatchesAndSaysItsInterval) {
  const at::Tensor scores = at::tensor({2.0, 0.0, 0.0, 2.0}).view({2, 2});
  ClassAccuracy found(2);
  found.add(at::log_softmax(scores, 1), at::tensor({0, 0}, at::kLong));
  found.add(at::log_softmax(scores, 1), at::tensor({0, 1}, at::kLong));
  EXPECT_EQ(found.samples(), 4);
  EXPECT_EQ(found.values().at(0), 0.75);
  const Interval interval = wilson_interval(3, 4);
  EXPECT_EQ(found.interval(), nlohmann::json({interval.low, interval.high}));
}

TEST(ClassAccuracy, TheTextIsInPercent) {
  EXPECT_EQ(accuracy_text(0.75, {0.301, 0.954}), "accuracy 75.0 %, 95 % interval 30.1 to 95.4 %");
}

}  // namespace
}  // namespace loci
