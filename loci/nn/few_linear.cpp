#include "loci/nn/few_linear.h"

#include <ATen/Parallel.h>
#include <ATen/autocast_mode.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <memory>

#include "loci/ops/product_key_search/product_key_search_kernel.h"

// Legend: T rows, d their width, O outputs.

namespace loci {
namespace {

using at::Tensor;

// Outputs whose weights are read for all T rows before the next ones: they stay in the second-level cache.
constexpr int64_t kChunk = 64;
// Multiply-adds worth a second thread.
constexpr int64_t kGrain = int64_t{1} << 17;

}  // namespace

Tensor few_linear(const Tensor& x, const Tensor& weight, const Tensor& bias, CpuLevel level) {
  for (const Tensor& tensor : {x, weight, bias}) {
    TORCH_CHECK(tensor.is_cpu() && tensor.scalar_type() == at::kFloat,
                "few_linear: x, weight and bias must be float32 on CPU, got ", tensor.scalar_type(), " on ",
                tensor.device());
  }
  TORCH_CHECK(x.dim() == 2 && weight.dim() == 2 && bias.dim() == 1 && weight.size(1) == x.size(1) &&
                  bias.size(0) == weight.size(0),
              "few_linear: x, weight and bias must be [T, d], [O, d] and [O], got ", x.sizes(), ", ", weight.sizes(),
              " and ", bias.sizes());
  const int64_t T = x.size(0), d = x.size(1), O = weight.size(0), chunks = (O + kChunk - 1) / kChunk;
  const Tensor rows = x.contiguous(), weights = weight.contiguous(), shift = bias.contiguous();
  Tensor y = at::empty({T, O}, x.options());
  const float *const from = rows.const_data_ptr<float>(), *const w = weights.const_data_ptr<float>();
  const float* const add = shift.const_data_ptr<float>();
  float* const out = y.mutable_data_ptr<float>();
  const auto& product = at_level(level, base::product_key_search_kernel, avx2::product_key_search_kernel,
                                 avx512::product_key_search_kernel)
                            .few_scores;
  const int64_t grain = std::max<int64_t>(1, kGrain / std::max<int64_t>(1, kChunk * T * d));
  at::parallel_for(0, chunks, grain, [&](int64_t first, int64_t last) {
    const std::unique_ptr<float[]> room(new float[5 * d]);
    for (int64_t c = first; c < last; ++c) {
      const int64_t o = c * kChunk, count = std::min(kChunk, O - o);
      for (int64_t t = 0; t < T; ++t) {
        float* const to = out + t * O + o;
        product(from + t * d, w + o * d, QueryElement::float32, count, d, to, room.get());
        for (int64_t i = 0; i < count; ++i) to[i] += add[o + i];
      }
    }
  });
  return y;
}

bool few_linear_takes(const Tensor& x, const Tensor& weight, const Tensor& bias) {
  const bool gradient =
      at::GradMode::is_enabled() && (x.requires_grad() || weight.requires_grad() || bias.requires_grad());
  if (gradient || x.dim() != 2 || x.size(0) > kFewLinearRows || at::autocast::is_autocast_enabled(at::kCPU)) {
    return false;
  }
  const auto fits = [](const Tensor& tensor) { return tensor.is_cpu() && tensor.scalar_type() == at::kFloat; };
  return fits(x) && fits(weight) && fits(bias);
}

}  // namespace loci
