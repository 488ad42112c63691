#include "loci/models/vocabulary_loss.h"

#include <ATen/TensorOperators.h>
#include <ATen/autocast_mode.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/_log_softmax.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/full_like.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <algorithm>

namespace loci {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct VocabularyLoss : torch::autograd::Function<VocabularyLoss> {
  static Tensor forward(AutogradContext* context, const Tensor& hidden, const Tensor& embedding, const Tensor& target,
                        at::ScalarType product_type, bool needs_gradient) {
    const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
    const int64_t tokens = hidden.size(0), vocabulary = embedding.size(0);
    const auto exact = hidden.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
    const Tensor x = hidden.to(product_type), w = embedding.to(product_type);  // [T, d], [V, d]
    const Tensor valid = target.ge(0);                                         // [T]
    const int64_t count = std::max<int64_t>(1, valid.sum().item<int64_t>());
    const Tensor safe = target.clamp_min(0).unsqueeze(1);                              // [T, 1]
    const Tensor share = (valid.to(exact) / static_cast<double>(count)).unsqueeze(1);  // [T, 1]

    Tensor dx, dw;
    if (needs_gradient) {
      dx = at::empty(hidden.sizes(), hidden.options().dtype(exact));
      dw = at::zeros(embedding.sizes(), embedding.options().dtype(exact));
    }
    double loss = 0;
    const int64_t chunk =
        std::clamp<int64_t>(vocabulary_loss_logits(vocabulary) / vocabulary, 1, std::max<int64_t>(1, tokens));
    const Tensor products = at::empty({chunk, vocabulary}, x.options());
    const Tensor buffer = at::empty({chunk, vocabulary}, x.options().dtype(exact));
    for (int64_t begin = 0; begin < tokens; begin += chunk) {
      const int64_t n = std::min(chunk, tokens - begin);
      const Tensor part = x.narrow(0, begin, n);
      const Tensor goal = safe.narrow(0, begin, n), part_share = share.narrow(0, begin, n);
      Tensor product = products.narrow(0, 0, n), logits = buffer.narrow(0, 0, n);  // [n, V]
      at::mm_out(product, part, w.t());
      at::_log_softmax_out(logits, product.to(exact), 1, /*half_to_float=*/false);
      loss -= (logits.gather(1, goal) * part_share).sum(at::kDouble).item<double>();
      if (!needs_gradient) continue;
      // d logits = (softmax - one at the target) * share, in place.
      logits.exp_().scatter_add_(1, goal, at::full_like(part_share, -1)).mul_(part_share);
      const Tensor dlogits = logits.to(product_type);
      Tensor dpart = dx.narrow(0, begin, n);
      if (product_type == exact) {
        at::mm_out(dpart, dlogits, w);
        dw.addmm_(dlogits.t(), part);
      } else {
        dpart.copy_(at::mm(dlogits, w));
        dw.add_(at::mm(dlogits.t(), part));
      }
    }
    context->save_for_backward({dx, dw});
    context->saved_data["hidden_type"] = static_cast<int64_t>(hidden.scalar_type());
    return at::full({}, loss, hidden.options().dtype(exact));
  }

  static variable_list backward(AutogradContext* context, variable_list output_gradient) {
    TORCH_CHECK_NOT_IMPLEMENTED(!at::GradMode::is_enabled(), "vocabulary_loss: a second derivative is not implemented");
    const variable_list saved = context->get_saved_variables();
    const Tensor& g = output_gradient[0];
    const auto type = static_cast<at::ScalarType>(context->saved_data["hidden_type"].toInt());
    return {(saved[0] * g).to(type), saved[1] * g, Tensor(), Tensor(), Tensor()};
  }
};

}  // namespace

Tensor vocabulary_loss(const Tensor& hidden, const Tensor& embedding, const Tensor& target) {
  TORCH_CHECK(hidden.dim() == 2 && embedding.dim() == 2 && hidden.size(1) == embedding.size(1),
              "vocabulary_loss: hidden and embedding must be [T, d] and [V, d], got ", hidden.sizes(), " and ",
              embedding.sizes());
  TORCH_CHECK(target.dim() == 1 && target.size(0) == hidden.size(0) && target.scalar_type() == at::kLong,
              "vocabulary_loss: target must be int64 [", hidden.size(0), "], got ", target.scalar_type(), " ",
              target.sizes());
  TORCH_CHECK_INDEX(target.numel() == 0 || target.max().item<int64_t>() < embedding.size(0),
                    "vocabulary_loss: target must be below ", embedding.size(0), ", got ",
                    target.max().item<int64_t>());
  const bool autocast = at::autocast::is_autocast_enabled(hidden.device().type());
  const auto type = hidden.scalar_type() == at::kDouble ? at::kDouble
                    : autocast                          ? at::autocast::get_autocast_dtype(hidden.device().type())
                                                        : at::kFloat;
  const bool needs_gradient = at::GradMode::is_enabled() && (hidden.requires_grad() || embedding.requires_grad());
  return VocabularyLoss::apply(hidden, embedding, target, type, needs_gradient);
}

TORCH_LIBRARY_FRAGMENT(loci, m) {
  m.def("vocabulary_loss(Tensor hidden, Tensor embedding, Tensor target) -> Tensor", vocabulary_loss);
}

}  // namespace loci
