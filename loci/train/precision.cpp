#include "loci/train/precision.h"

#include <ATen/autocast_mode.h>

#include "loci/base/cpu_level.h"

namespace loci {

bool wants_bfloat16(const std::string& precision) {
  return precision == "bfloat16" || (precision == "auto" && cpu_has_bfloat16());
}

PrecisionGuard::PrecisionGuard(bool bfloat16) : bfloat16_(bfloat16) {
  if (!bfloat16_) return;
  at::autocast::set_autocast_dtype(at::kCPU, at::kBFloat16);
  at::autocast::set_autocast_enabled(at::kCPU, true);
  at::autocast::increment_nesting();
}

PrecisionGuard::~PrecisionGuard() {
  if (!bfloat16_) return;
  // The cache holds this forward's casts of the weights: stale after an optimiser step.
  if (at::autocast::decrement_nesting() == 0) at::autocast::clear_cache();
  at::autocast::set_autocast_enabled(at::kCPU, false);
}

}  // namespace loci
