#include "loci/models/load_state.h"

#include <ATen/core/grad_mode.h>
#include <torch/nn/module.h>

#include "loci/base/check.h"

namespace loci {

void load_state(const std::string& who, const torch::nn::Module& model, const std::map<std::string, at::Tensor>& state,
                const std::function<bool(const std::string& name)>& may_lack) {
  std::map<std::string, at::Tensor> own;
  for (const auto& parameter : model.named_parameters()) own.emplace(parameter.key(), parameter.value());
  for (const auto& buffer : model.named_buffers()) own.emplace(buffer.key(), buffer.value());
  const auto refuse = [&](const std::string& expected, const std::string& got) {
    fail(ExitCode::input, who, expected, got);
  };
  for (const auto& [name, value] : state) {
    const auto found = own.find(name);
    if (found == own.end()) refuse("every name must belong to the model", name);
    if (found->second.sizes() != value.sizes()) {
      refuse(fmt::format("{} must be {}", name, c10::str(found->second.sizes())), c10::str(value.sizes()));
    }
  }
  for (const auto& [name, value] : own) {
    if (state.count(name) == 0 && !may_lack(name)) {
      refuse(fmt::format("{} must be given (only names of memories may be missing)", name), "none");
    }
  }
  const at::NoGradGuard guard;
  for (const auto& [name, value] : state) own.at(name).copy_(value);
}

}  // namespace loci
