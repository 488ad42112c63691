#include "loci/models/load_state.h"

#include <ATen/core/grad_mode.h>
#include <torch/nn/module.h>

#include "loci/base/check.h"

namespace loci {

void load_state(const std::string& who, const torch::nn::Module& model, const std::map<std::string, at::Tensor>& state,
                const PartOfName& part_of) {
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
    if (value.is_floating_point() != found->second.is_floating_point()) {
      refuse(fmt::format("{} must be {}", name, c10::toString(found->second.scalar_type())),
             c10::toString(value.scalar_type()));
    }
  }
  std::map<std::string, std::string> given, missing;  // a name of each part
  for (const auto& [name, value] : own) {
    const std::string part = part_of(name);
    const bool is_given = state.count(name) > 0;
    if (!part.empty()) {
      (is_given ? given : missing).emplace(part, name);
    } else if (!is_given) {
      refuse(fmt::format("{} must be given (only what is new in the model may be missing)", name), "none");
    }
  }
  for (const auto& [part, name] : missing) {
    if (given.contains(part)) refuse(fmt::format("{} must be given, for {} is", name, given.at(part)), "none");
  }
  const at::NoGradGuard guard;
  for (const auto& [name, value] : state) own.at(name).copy_(value);
}

}  // namespace loci
