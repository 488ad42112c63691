// Evaluation mode until the end of a scope.
#pragma once

#include <utility>
#include <vector>

namespace torch::nn {
class Module;
}

namespace loci {

// Puts a module and all modules below it into evaluation mode. At the end, by an exception too, each has its own mode
// again.
class EvaluationScope {
 public:
  explicit EvaluationScope(torch::nn::Module& module);
  ~EvaluationScope();
  EvaluationScope(const EvaluationScope&) = delete;
  EvaluationScope& operator=(const EvaluationScope&) = delete;

 private:
  std::vector<std::pair<torch::nn::Module*, bool>> training_;  // a module stands before those below it
};

}  // namespace loci
