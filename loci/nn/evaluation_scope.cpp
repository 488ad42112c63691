#include "loci/nn/evaluation_scope.h"

#include <torch/nn/module.h>

namespace loci {

EvaluationScope::EvaluationScope(torch::nn::Module& module) {
  module.apply([this](torch::nn::Module& part) { training_.emplace_back(&part, part.is_training()); });
  module.eval();
}

EvaluationScope::~EvaluationScope() {
  for (const auto& [module, training] : training_) module->train(training);
}

}  // namespace loci
