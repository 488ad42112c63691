#include "loci/optim/parameter_rules.h"

#include "loci/base/check.h"

namespace loci {

std::function<void(at::Tensor& value)> clip_to(double low, double high) {
  if (!(low <= high)) {
    fail(ExitCode::bug, "clip_to", "the range must be [low, high]", fmt::format("[{}, {}]", low, high));
  }
  return [low, high](at::Tensor& value) { value.clamp_(low, high); };
}

}  // namespace loci
