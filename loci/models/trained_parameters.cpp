#include "loci/models/trained_parameters.h"

namespace loci {

std::vector<NamedParameter> trained_parameters(const torch::nn::Module& module) {
  std::vector<NamedParameter> result;
  for (const auto& parameter : module.named_parameters()) {
    if (!parameter.value().requires_grad()) continue;  // frozen keys
    const int64_t dimensions = parameter.value().dim();
    result.push_back(
        {.name = parameter.key(), .value = parameter.value(), .decay = dimensions == 2 || dimensions >= 4});
  }
  return result;
}

}  // namespace loci
