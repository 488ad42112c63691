#include "loci/nn/batch_norm_search.h"

#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/custom_function.h>

#include "loci/nn/batch_norm.h"
#include "loci/ops/product_key_search/product_key_search_cpu.h"
#include "loci/ops/product_key_select/product_key_select_cpu.h"

namespace loci {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// Queries as the search names them: [T, H, 2, w].
Tensor by_head(const Tensor& x, const Tensor& keys) { return x.view({x.size(0), keys.size(0), 2, keys.size(2)}); }

struct BatchNormSearch : torch::autograd::Function<BatchNormSearch> {
  static variable_list forward(AutogradContext* context, const Tensor& input, const Tensor& gain, const Tensor& bias,
                               const Tensor& running_mean, const Tensor& running_variance, const Tensor& keys1,
                               const Tensor& keys2, int64_t top_k, int64_t addresses, double momentum,
                               double epsilon) {
    const Tensor x = input.contiguous();
    const BatchStatistics of_batch =
        batch_statistics(x, gain, bias, running_mean, running_variance, momentum, epsilon);
    const auto [score, index] = normalised_search_cpu(by_head(x, keys1), of_batch.constants, keys1, keys2, top_k,
                                                      addresses, cpu_level());
    context->save_for_backward({x, gain, of_batch.known, of_batch.constants, keys1, keys2, index});
    context->mark_non_differentiable({index});
    return {score, index};
  }

  static variable_list backward(AutogradContext* context, const variable_list& grads) {
    TORCH_CHECK_NOT_IMPLEMENTED(!at::GradMode::is_enabled(),
                                "batch_norm_search: a second derivative is not implemented");
    const variable_list saved = context->get_saved_variables();
    const Tensor &x = saved[0], &gain = saved[1], &constants = saved[3], &keys1 = saved[4], &keys2 = saved[5];
    const NormalisedSearchGradient of = normalised_search_backward_cpu(grads[0].contiguous(), saved[6],
                                                                       by_head(x, keys1), constants, keys1, keys2,
                                                                       cpu_level());
    const auto [dx, dgain, dbias] = batch_norm_gradient(x, of.query, gain, {saved[2], constants}, of.sums);
    return {dx, dgain, dbias, Tensor(), Tensor(), of.keys1, of.keys2, Tensor(), Tensor(), Tensor(), Tensor()};
  }
};

}  // namespace

bool batch_norm_search_takes(const Tensor& x, const Tensor& keys1, const Tensor& keys2, int64_t top_k) {
  return x.is_cpu() && (x.scalar_type() == at::kFloat || x.scalar_type() == at::kBFloat16) &&
         keys1.scalar_type() == at::kFloat && x.size(0) > kFewTokens &&
         product_key_select_cpu_takes(keys1.size(1), keys2.size(1), top_k);
}

std::tuple<Tensor, Tensor> batch_norm_search(const Tensor& x, const Tensor& gain, const Tensor& bias,
                                             const Tensor& running_mean, const Tensor& running_variance,
                                             const Tensor& keys1, const Tensor& keys2, int64_t top_k,
                                             int64_t addresses, double momentum, double epsilon) {
  check_batch_norm(x, gain, bias, running_mean, running_variance);
  TORCH_CHECK(keys1.dim() == 3 && x.size(1) == keys1.size(0) * 2 * keys1.size(2),
              "batch_norm_search: x must be [T, H * 2 * w] for keys [H, n, w], got ", x.sizes(), " and ",
              keys1.sizes());
  TORCH_CHECK(batch_norm_search_takes(x, keys1, keys2, top_k),
              "batch_norm_search: x must be float32 or bfloat16 on CPU with more than ", kFewTokens,
              " tokens, keys float32 of sizes that the kernels take, got ", x.scalar_type(), " ", x.sizes(), " and ",
              keys1.scalar_type(), " ", keys1.sizes());
  const auto result = BatchNormSearch::apply(x, gain, bias, running_mean, running_variance, keys1, keys2, top_k,
                                             addresses, momentum, epsilon);
  return {result[0], result[1]};
}

}  // namespace loci
