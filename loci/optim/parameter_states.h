// State tensors of dense parameters, and groups of them, for rules of DenseOptimizer.
#pragma once

#include <ATen/core/Tensor.h>

#include <map>
#include <string>
#include <tuple>
#include <unordered_map>
#include <vector>

#include "loci/optim/dense_optimizer.h"

namespace loci {

// Throws Error unless the parameter is float32 or float64 on the CPU, dense in memory.
void check_dense_parameter(const NamedParameter& parameter);

// Parameters with `moments` state tensors each, and groups of them for kernels that walk raw memory.
class ParameterStates {
 public:
  struct Entry {
    std::string name;
    double decay;
    double rate;  // factor
    std::vector<at::Tensor> moments;
    at::Tensor count;  // float32 scalar: updates made
    OwnUpdate own;
  };

  ParameterStates(const std::vector<NamedParameter>& parameters, const DenseOptimizerOptions& options, size_t moments);

  Entry& of(const at::Tensor& parameter);
  const std::vector<Entry>& entries() const { return entries_; }
  // The gradient of a parameter, with its strides.
  static at::Tensor gradient_of(const at::Tensor& parameter);

  // Calls update(decay, rate factor, values, gradients, entries) for parameters of one decay, factor and dtype at a
  // time, gradients with the strides of their parameters.
  template <class Update>
  void for_groups(const std::vector<at::Tensor>& parameters, const Update& update) {
    std::map<std::tuple<double, double, at::ScalarType>, std::vector<const at::Tensor*>> groups;
    for (const at::Tensor& parameter : parameters) {
      const Entry& entry = of(parameter);
      if (entry.own.trained.defined()) continue;
      groups[{entry.decay, entry.rate, parameter.scalar_type()}].push_back(&parameter);
    }
    for (const auto& [key, members] : groups) {
      std::vector<at::Tensor> values, gradients;
      std::vector<Entry*> entries;
      for (const at::Tensor* parameter : members) {
        entries.push_back(&of(*parameter));
        values.push_back(*parameter);
        gradients.push_back(gradient_of(*parameter));
      }
      update(std::get<0>(key), std::get<1>(key), values, gradients, entries);
    }
  }

  void clear(const at::Tensor& parameter);

 private:
  std::vector<Entry> entries_;
  std::unordered_map<const c10::TensorImpl*, size_t> places_;
};

// State tensor `which` of each entry.
std::vector<at::Tensor> moments_of(const std::vector<ParameterStates::Entry*>& entries, size_t which);

}  // namespace loci
