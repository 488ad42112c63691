// Parameters and buffers of modules by name, for tests.
#pragma once

#include <torch/nn/module.h>

#include <map>
#include <string>

namespace loci {

// The module's own tensors: gradients flow through them, and training changes them.
inline std::map<std::string, at::Tensor> state_of(const torch::nn::Module& module) {
  std::map<std::string, at::Tensor> state;
  for (const auto& parameter : module.named_parameters()) state.emplace(parameter.key(), parameter.value());
  for (const auto& buffer : module.named_buffers()) state.emplace(buffer.key(), buffer.value());
  return state;
}

inline std::map<std::string, at::Tensor> copied_state(const torch::nn::Module& module) {
  std::map<std::string, at::Tensor> state = state_of(module);
  for (auto& [name, tensor] : state) tensor = tensor.detach().clone();
  return state;
}

}  // namespace loci
