// The precision of the dense part: float32, or bfloat16 by the framework's autocast. A memory's scores, softmax and
// sums of rows stay float32 either way.
#pragma once

#include <string>

namespace loci {

// "float32" | "bfloat16" | "auto": bfloat16 where the CPU multiplies it faster than float32.
bool wants_bfloat16(const std::string& precision);

// Autocast for what runs while it lives; forward only, backward follows by itself.
class PrecisionGuard {
 public:
  explicit PrecisionGuard(bool bfloat16);
  ~PrecisionGuard();
  PrecisionGuard(const PrecisionGuard&) = delete;
  PrecisionGuard& operator=(const PrecisionGuard&) = delete;

 private:
  bool bfloat16_;
};

}  // namespace loci
