#include "loci/ops/few_linear/few_linear.h"

#include <ATen/autocast_mode.h>
#include <ATen/ops/linear.h>
#include <c10/util/accumulate.h>

#include <vector>

#include "loci/ops/few_linear/few_linear_definition.h"
#include "loci/ops/few_linear/few_linear_kernel.h"
#include "loci/ops/operator.h"

// Legend: T vectors, d inputs, O outputs of each.

namespace loci {

using at::Tensor;

void check_few_linear(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias) {
  TORCH_CHECK(x.dim() == 2 && at::isFloatingType(x.scalar_type()),
              "few_linear: x must be [T, d] of a floating type, got ", x.sym_sizes(), " of ", x.scalar_type());
  const auto check_one = [&](const char* name, const Tensor& other) {
    TORCH_CHECK(other.scalar_type() == x.scalar_type() && other.device() == x.device(), "few_linear: ", name,
                " must be ", x.scalar_type(), " on ", x.device(), " like x, got ", other.scalar_type(), " on ",
                other.device());
  };
  check_one("weight", weight);
  TORCH_CHECK(weight.dim() == 2 && weight.sym_size(1) == x.sym_size(1), "few_linear: weight must be [O, ",
              x.sym_size(1), "], got ", weight.sym_sizes());
  if (!bias) return;
  check_one("bias", *bias);
  TORCH_CHECK(bias->dim() == 1 && bias->sym_size(0) == weight.sym_size(0), "few_linear: bias must be [",
              weight.sym_size(0), "], got ", bias->sym_sizes());
}

Tensor few_linear_definition(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias) {
  check_few_linear(x, weight, bias);
  return at::linear(x, weight, bias);
}

namespace {

bool has_gradient(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias) {
  return at::GradMode::is_enabled() && (x.requires_grad() || weight.requires_grad() || (bias && bias->requires_grad()));
}

// The definition records its own gradient.
Tensor few_linear_autograd_entry(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias) {
  if (has_gradient(x, weight, bias)) return few_linear_definition(x, weight, bias);
  const at::AutoDispatchBelowADInplaceOrView below_autograd;
  return few_linear(x, weight, bias);
}

}  // namespace

Tensor few_linear(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias) {
  return call_operator<"loci::few_linear", decltype(few_linear)>(x, weight, bias);
}

Tensor linear_map(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias) {
  const auto fits = [](const Tensor& tensor) { return tensor.is_cpu() && tensor.scalar_type() == at::kFloat; };
  const bool taken =
      x.dim() > 0 && weight.dim() == 2 && fits(x) && fits(weight) && !at::autocast::is_autocast_enabled(at::kCPU);
  const int64_t T = taken ? c10::numelements_to_dim(static_cast<int>(x.dim() - 1), x.sizes()) : 0;
  if (!taken || T > FewLinearKernel::most_vectors) return at::linear(x, weight, bias);
  std::vector<int64_t> sizes = x.sizes().vec();
  sizes.back() = weight.size(0);
  return few_linear(x.reshape({T, x.size(-1)}), weight, bias).view(sizes);
}

TORCH_LIBRARY_FRAGMENT(loci, m) {
  define_operator(m, "few_linear(Tensor x, Tensor weight, Tensor? bias=None) -> Tensor", few_linear_definition,
                  few_linear_autograd_entry);
}

}  // namespace loci
