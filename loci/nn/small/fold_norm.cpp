// Legend: O features.
#include "loci/nn/small/fold_norm.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>

#include <cmath>

#include "loci/base/check.h"
#include "loci/ops/binary_linear/binary_linear.h"

namespace loci {

using at::Tensor;

namespace {

constexpr int64_t kMostExact = int64_t{1} << 24;  // whole numbers of float32

// The least y of -most .. most + 1 from which on `reached` holds, which it does for all above one for which it does.
template <class Reached>
int64_t least_reached(int64_t most, const Reached& reached) {
  int64_t low = -most, high = most + 1;
  while (low < high) {
    const int64_t middle = low + (high - low) / 2;
    if (reached(middle)) {
      high = middle;
    } else {
      low = middle + 1;
    }
  }
  return low;
}

}  // namespace

NormLine line_of_norm(const NormTensors& norm) {
  const auto flat = [](const Tensor& tensor) { return tensor.detach().to(at::kFloat).contiguous().view(-1); };
  const Tensor variance = flat(norm.running_variance).to(at::kDouble);
  const Tensor scale = (variance + kNormEpsilon).sqrt().reciprocal();
  return {flat(norm.running_mean), (scale * flat(norm.gain).to(at::kDouble)).to(at::kFloat), flat(norm.bias)};
}

SignThreshold fold_line(const NormLine& line, int64_t most) {
  if (most < 0 || most > kMostExact) {
    fail(ExitCode::bug, "fold_norm", fmt::format("most must be 0 to {}", kMostExact), fmt::to_string(most));
  }
  const int64_t O = line.mean.numel();
  const float *const mean = line.mean.const_data_ptr<float>(), *const factor = line.factor.const_data_ptr<float>();
  const float* const bias = line.bias.const_data_ptr<float>();
  Tensor threshold = at::empty({O}, at::kInt), side = at::empty({O}, at::kFloat);
  for (int64_t o = 0; o < O; ++o) {
    if (!std::isfinite(mean[o]) || !std::isfinite(factor[o]) || !std::isfinite(bias[o])) {
      fail(ExitCode::input, "fold_norm", fmt::format("the norm of feature {} must be finite", o),
           fmt::format("mean {}, factor {}, bias {}", mean[o], factor[o], bias[o]));
    }
    const bool falls = factor[o] < 0;
    const int64_t least = least_reached(most, [&](int64_t y) {
      const bool positive = (static_cast<float>(y) - mean[o]) * factor[o] + bias[o] >= 0;
      return positive != falls;
    });
    threshold.mutable_data_ptr<int32_t>()[o] = static_cast<int32_t>(least);
    side.mutable_data_ptr<float>()[o] = falls ? -1.0F : 1.0F;
  }
  return {threshold, sign_pack(side)};
}

SignThreshold fold_norm(const NormTensors& norm, int64_t most) {
  return fold_line(line_of_norm(norm), most);
}

}  // namespace loci
