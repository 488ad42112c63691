#include "loci/ops/few_linear/few_linear_cpu.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>

#include <algorithm>

#include "loci/ops/few_linear/few_linear_definition.h"
#include "loci/ops/few_linear/few_linear_kernel.h"
#include "loci/ops/operator.h"

// Legend: T vectors, d inputs, O outputs of each.

namespace loci {

using at::Tensor;

namespace {

// Weights worth a second thread.
constexpr int64_t kFewLinearGrain = int64_t{1} << 16;

}  // namespace

Tensor few_linear_cpu(const Tensor& input, const Tensor& input_weight, const std::optional<Tensor>& input_bias,
                      CpuLevel level) {
  check_few_linear(input, input_weight, input_bias);
  if (input.scalar_type() != at::kFloat) return few_linear_definition(input, input_weight, input_bias);
  const Tensor x = input.contiguous(), weight = input_weight.contiguous();
  const Tensor bias = input_bias ? input_bias->contiguous() : Tensor();
  const int64_t T = x.size(0), d = x.size(1), O = weight.size(0);
  Tensor y = at::empty({T, O}, x.options());
  const auto function =
      at_level(level, base::few_linear_kernel, avx2::few_linear_kernel, avx512::few_linear_kernel).float32;
  const float *const from = x.const_data_ptr<float>(), *const w = weight.const_data_ptr<float>();
  const float* const shift = input_bias ? bias.const_data_ptr<float>() : nullptr;
  float* const to = y.mutable_data_ptr<float>();
  constexpr int64_t together = FewLinearKernel::outputs, most = FewLinearKernel::most_vectors;
  const int64_t grain = std::max<int64_t>(1, kFewLinearGrain / std::max<int64_t>(1, together * d));
  at::parallel_for(0, (O + together - 1) / together, grain, [&](int64_t first, int64_t last) {
    const int64_t o = first * together, end = std::min(last * together, O);
    for (int64_t t = 0; t < T; t += most) {
      function(from + t * d, d, std::min(most, T - t), w + o * d, shift ? shift + o : nullptr, end - o, d,
               to + t * O + o, O);
    }
  });
  return y;
}

TORCH_LIBRARY_IMPL(loci, CPU, m) {
  m.impl("few_linear", at_cpu_level<few_linear_cpu>);
}

}  // namespace loci
