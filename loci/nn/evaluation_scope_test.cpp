#include "loci/nn/evaluation_scope.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <stdexcept>

namespace loci {
namespace {

TEST(EvaluationScope, EachModuleHasItsOwnModeAgain) {
  torch::nn::Linear trained(2, 2), frozen(2, 2);
  torch::nn::ModuleList network(trained, torch::nn::ModuleList(frozen));
  frozen->eval();
  {
    const EvaluationScope evaluation(*network);
    EXPECT_FALSE(network->is_training());
    EXPECT_FALSE(trained->is_training());
  }
  EXPECT_TRUE(network->is_training());
  EXPECT_TRUE(trained->is_training());
  EXPECT_FALSE(frozen->is_training());
}

TEST(EvaluationScope, AnExceptionEndsItToo) {
  torch::nn::Linear network(2, 2);
  const auto broken = [&] {
    const EvaluationScope evaluation(*network);
    throw std::runtime_error("broken");
  };
  EXPECT_THROW(broken(), std::runtime_error);
  EXPECT_TRUE(network->is_training());
}

}  // namespace
}  // namespace loci
