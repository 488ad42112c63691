#include "loci/ops/product_key_select/product_key_select.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/argsort.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/isfinite.h>
#include <ATen/ops/sort.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>

#include <algorithm>

#include "loci/ops/operator.h"
#include "loci/ops/product_key_select/product_key_select_definition.h"

// Legend: T tokens, H heads, n1, n2 sub-keys of the halves, K top_k, C candidates.

namespace loci {

using at::Tensor;
using c10::SymInt;

void check_top_k(const char* who, int64_t top_k, int64_t addresses, SymInt n1, SymInt n2) {
  TORCH_CHECK(addresses >= 1 && SymInt(addresses) <= n1 * n2, who,
              ": addresses must be within 1 .. n1 * n2 = ", n1 * n2, ", got ", addresses);
  TORCH_CHECK(top_k >= 1 && top_k <= addresses, who, ": top_k must be within 1 .. addresses = ", addresses, ", got ",
              top_k);
}

void check_product_key_select(const Tensor& score1, const Tensor& score2, int64_t top_k, int64_t addresses) {
  constexpr const char* who = "product_key_select";
  TORCH_CHECK(score1.dim() == 3 && score2.dim() == 3, who, ": scores must have 3 dimensions [T, H, n], got ",
              score1.dim(), " and ", score2.dim());
  TORCH_CHECK(score1.scalar_type() == at::kFloat || score1.scalar_type() == at::kDouble, who,
              ": scores must be float32 or float64, got ", score1.scalar_type());
  TORCH_CHECK(score2.scalar_type() == score1.scalar_type(), who, ": score2 must be ", score1.scalar_type(),
              " like score1, got ", score2.scalar_type());
  TORCH_CHECK(score2.device() == score1.device(), who, ": score2 must be on ", score1.device(), " like score1, got ",
              score2.device());
  TORCH_CHECK(score2.sym_size(0) == score1.sym_size(0) && score2.sym_size(1) == score1.sym_size(1), who,
              ": score2 must agree with score1 in T and H, ", score1.sym_sizes(), ", got ", score2.sym_sizes());
  check_top_k(who, top_k, addresses, score1.sym_size(2), score2.sym_size(2));
}

namespace {

// The best `keep` entries by (score descending, position ascending), NaN first, and their positions.
std::pair<Tensor, Tensor> best_scores(const Tensor& score, int64_t keep) {
  auto [value, position] = at::sort(score, /*stable=*/true, /*dim=*/-1, /*descending=*/true);
  return {value.narrow(-1, 0, keep), position.narrow(-1, 0, keep)};
}

}  // namespace

std::tuple<Tensor, Tensor> product_key_select_definition(const Tensor& score1, const Tensor& score2, int64_t top_k,
                                                         int64_t addresses) {
  check_product_key_select(score1, score2, top_k, addresses);
  if (score1.is_meta()) {  // compilation and export ask for the shapes alone
    const std::vector<SymInt> sizes = {score1.sym_size(0), score1.sym_size(1), top_k};
    return {at::empty_symint(sizes, score1.options()), at::empty_symint(sizes, score1.options().dtype(at::kLong))};
  }
  const int64_t n2 = score2.size(2);
  const int64_t full = addresses / n2;          // rows of the address grid that exist entirely
  const int64_t rest = addresses - full * n2;   // addresses in the row after them
  std::vector<Tensor> firsts, seconds, places;  // pieces of [T, H, C]

  // The pair of ranks (a, b) is preceded by a * b - 1 others, so only a * b <= K can win.
  if (const int64_t ranks1 = std::min(top_k, full), ranks2 = std::min(top_k, n2); ranks1 > 0) {
    const auto [value1, i] = best_scores(score1.narrow(-1, 0, full), ranks1);
    const auto [value2, j] = best_scores(score2, ranks2);
    for (int64_t a = 1; a <= ranks1; ++a) {
      const int64_t columns = std::min(ranks2, top_k / a);
      seconds.push_back(value2.narrow(-1, 0, columns));
      firsts.push_back(value1.narrow(-1, a - 1, 1).expand_as(seconds.back()));
      places.push_back(i.narrow(-1, a - 1, 1) * n2 + j.narrow(-1, 0, columns));
    }
  }
  if (rest != 0) {
    const auto [value2, j] = best_scores(score2.narrow(-1, 0, rest), std::min(top_k, rest));
    seconds.push_back(value2);
    firsts.push_back(score1.narrow(-1, full, 1).expand_as(value2));
    places.push_back(j + full * n2);
  }

  const Tensor a = at::cat(firsts, -1), b = at::cat(seconds, -1), address = at::cat(places, -1);  // [T, H, C]
  // Two-sum (Knuth): a + b = high + low exactly, so that rounding makes no ties.
  const Tensor high = a + b, t = high - a;
  const Tensor low = at::where(at::isfinite(high), (a - (high - t)) + (b - t), 0.0);
  // Three stable sorts, the last key first: (high descending, low descending, address ascending).
  Tensor order = at::argsort(address, /*stable=*/true, -1, /*descending=*/false);
  order = order.gather(-1, at::argsort(low.gather(-1, order), /*stable=*/true, -1, /*descending=*/true));
  order = order.gather(-1, at::argsort(high.gather(-1, order), /*stable=*/true, -1, /*descending=*/true));
  order = order.narrow(-1, 0, top_k);
  return {high.gather(-1, order), address.gather(-1, order)};
}

namespace {

// Each selected pair hands its gradient to its two sub-scores: [T, H, n1] and [T, H, n2].
std::tuple<Tensor, Tensor> select_backward_definition(const Tensor& grad_score, const Tensor& index, SymInt n1,
                                                      SymInt n2) {
  TORCH_CHECK(grad_score.dim() == 3 && grad_score.sym_sizes() == index.sym_sizes(),
              "product_key_select_backward: grad_score must be [T, H, K] like index, ", index.sym_sizes(), ", got ",
              grad_score.sym_sizes());
  TORCH_CHECK(index.scalar_type() == at::kLong, "product_key_select_backward: index must be int64, got ",
              index.scalar_type());
  const SymInt T = index.sym_size(0), H = index.sym_size(1);
  const Tensor i = index.div(n2, "floor");
  const Tensor grad1 = at::zeros_symint({T, H, n1}, grad_score.options()).scatter_add(-1, i, grad_score);
  const Tensor grad2 = at::zeros_symint({T, H, n2}, grad_score.options()).scatter_add(-1, index - i * n2, grad_score);
  return {grad1, grad2};
}

std::vector<Tensor> select_gradient(const BackwardPass& pass) {
  auto [grad1, grad2] = product_key_select_backward(pass.grad[0], pass.saved[0], pass.constants[0].toSymInt(),
                                                    pass.constants[1].toSymInt());
  return {grad1, grad2};
}

std::tuple<Tensor, Tensor> select_autograd_entry(const Tensor& score1, const Tensor& score2, int64_t top_k,
                                                 int64_t addresses) {
  return tuple_of<2>(once_differentiable<select_gradient>("product_key_select", {score1, score2}, [&] {
    const auto [score, index] = product_key_select(score1, score2, top_k, addresses);
    return ForwardPass{{score, index}, {index}, {score1.sym_size(2), score2.sym_size(2)}};
  }));
}

}  // namespace

std::tuple<Tensor, Tensor> product_key_select(const Tensor& score1, const Tensor& score2, int64_t top_k,
                                              int64_t addresses) {
  return call_operator<"loci::product_key_select", decltype(product_key_select)>(score1, score2, top_k, addresses);
}

std::tuple<Tensor, Tensor> product_key_select_backward(const Tensor& grad_score, const Tensor& index, SymInt n1,
                                                       SymInt n2) {
  return call_operator<"loci::product_key_select_backward", decltype(product_key_select_backward)>(grad_score, index,
                                                                                                   n1, n2);
}

TORCH_LIBRARY_FRAGMENT(loci, m) {
  define_operator(
      m, "product_key_select(Tensor score1, Tensor score2, int top_k, int addresses) -> (Tensor score, Tensor index)",
      product_key_select_definition, select_autograd_entry);
  define_operator(
      m, "product_key_select_backward(Tensor grad_score, Tensor index, SymInt n1, SymInt n2) -> (Tensor, Tensor)",
      select_backward_definition, not_differentiable());
}

}  // namespace loci
