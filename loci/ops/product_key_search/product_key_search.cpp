#include "loci/ops/product_key_search/product_key_search.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/bmm.h>
#include <ATen/ops/stack.h>
#include <c10/core/impl/LocalDispatchKeySet.h>

#include "loci/ops/operator.h"
#include "loci/ops/product_key_search/product_key_search_definition.h"
#include "loci/ops/product_key_select/product_key_select.h"
#include "loci/ops/product_key_select/product_key_select_definition.h"

// Legend: T tokens, H heads, w width of half a query, n1, n2 sub-keys of the halves, K top_k.

namespace loci {

using at::Tensor;

namespace {

bool is_query_dtype(at::ScalarType type) {
  return type == at::kFloat || type == at::kDouble || type == at::kBFloat16 || type == at::kHalf;
}

void check_keys(const char* who, const Tensor& keys1, const Tensor& keys2) {
  TORCH_CHECK(keys1.dim() == 3 && keys2.dim() == 3, who, ": keys must have 3 dimensions [H, n, w], got ", keys1.dim(),
              " and ", keys2.dim());
  TORCH_CHECK(is_query_dtype(keys1.scalar_type()), who, ": keys must be float64, float32, bfloat16 or float16, got ",
              keys1.scalar_type());
  TORCH_CHECK(keys2.scalar_type() == keys1.scalar_type(), who, ": keys2 must be ", keys1.scalar_type(),
              " like keys1, got ", keys2.scalar_type());
  TORCH_CHECK(keys2.sym_size(0) == keys1.sym_size(0) && keys2.sym_size(2) == keys1.sym_size(2), who,
              ": keys2 must agree with keys1 in H and w, ", keys1.sym_sizes(), ", got ", keys2.sym_sizes());
}

// What the search and its gradient ask of query and keys.
void check_inputs(const char* who, const Tensor& query, const Tensor& keys1, const Tensor& keys2) {
  TORCH_CHECK(query.dim() == 4 && query.sym_size(2) == 2, who, ": query must be [T, H, 2, w], got ", query.sym_sizes());
  TORCH_CHECK(is_query_dtype(query.scalar_type()), who, ": query must be float64, float32, bfloat16 or float16, got ",
              query.scalar_type());
  check_keys(who, keys1, keys2);
  TORCH_CHECK(keys1.scalar_type() == query.scalar_type(), who, ": keys must be ", query.scalar_type(),
              " like query, got ", keys1.scalar_type());
  TORCH_CHECK(keys1.device() == query.device() && keys2.device() == query.device(), who, ": keys must be on ",
              query.device(), " like query, got ", keys1.device(), " and ", keys2.device());
  TORCH_CHECK(keys1.sym_size(0) == query.sym_size(1) && keys1.sym_size(2) == query.sym_size(3), who,
              ": keys must be [H, n, w] = [", query.sym_size(1), ", n, ", query.sym_size(3), "] like query, got ",
              keys1.sym_sizes());
}

}  // namespace

at::ScalarType search_score_dtype(at::ScalarType query) {
  return query == at::kDouble ? at::kDouble : at::kFloat;
}

void check_product_key_search(const Tensor& query, const Tensor& keys1, const Tensor& keys2, int64_t top_k,
                              int64_t addresses) {
  constexpr const char* who = "product_key_search";
  check_inputs(who, query, keys1, keys2);
  check_top_k(who, top_k, addresses, keys1.sym_size(1), keys2.sym_size(1));
}

void check_product_key_search_backward(const Tensor& grad_score, const Tensor& index, const Tensor& query,
                                       const Tensor& keys1, const Tensor& keys2) {
  constexpr const char* who = "product_key_search_backward";
  check_inputs(who, query, keys1, keys2);
  TORCH_CHECK(index.dim() == 3 && index.scalar_type() == at::kLong, who, ": index must be int64 [T, H, K], got ",
              index.scalar_type(), " ", index.sym_sizes());
  TORCH_CHECK(index.sym_size(0) == query.sym_size(0) && index.sym_size(1) == query.sym_size(1), who,
              ": index must agree with query in T and H, ", query.sym_sizes(), ", got ", index.sym_sizes());
  TORCH_CHECK(grad_score.sym_sizes() == index.sym_sizes(), who, ": grad_score must be ", index.sym_sizes(),
              " like index, got ", grad_score.sym_sizes());
  TORCH_CHECK(grad_score.scalar_type() == search_score_dtype(query.scalar_type()), who, ": grad_score must be ",
              search_score_dtype(query.scalar_type()), ", got ", grad_score.scalar_type());
}

namespace {

// Scores and gradients keep their precision under autocast, which would make the products below bfloat16.
struct WithoutAutocast {
  c10::impl::ExcludeDispatchKeyGuard guard{c10::autocast_dispatch_keyset};
};

// One half of the query, heads first: [H, T, w].
Tensor half(const Tensor& query, int64_t which, at::ScalarType type) {
  return query.select(2, which).transpose(0, 1).to(type);
}

}  // namespace

std::tuple<Tensor, Tensor> product_key_search_definition(const Tensor& query, const Tensor& keys1, const Tensor& keys2,
                                                         int64_t top_k, int64_t addresses) {
  check_product_key_search(query, keys1, keys2, top_k, addresses);
  const WithoutAutocast without_autocast;
  const auto type = search_score_dtype(query.scalar_type());
  const Tensor score1 = at::bmm(half(query, 0, type), keys1.to(type).transpose(1, 2));  // [H, T, n1]
  const Tensor score2 = at::bmm(half(query, 1, type), keys2.to(type).transpose(1, 2));  // [H, T, n2]
  return product_key_select_definition(score1.transpose(0, 1), score2.transpose(0, 1), top_k, addresses);
}

std::tuple<Tensor, Tensor, Tensor> search_backward_definition(const Tensor& grad_score, const Tensor& index,
                                                              const Tensor& query, const Tensor& keys1,
                                                              const Tensor& keys2, std::array<bool, 3> needed) {
  check_product_key_search_backward(grad_score, index, query, keys1, keys2);
  const WithoutAutocast without_autocast;
  const auto type = grad_score.scalar_type(), to = query.scalar_type();
  const auto [grad1, grad2] = product_key_select_backward(grad_score, index, keys1.sym_size(1), keys2.sym_size(1));
  const auto of_query = [&](const Tensor& grad, const Tensor& keys) {  // [T, H, w]
    return at::bmm(grad.transpose(0, 1), keys.to(type)).transpose(0, 1);
  };
  const auto of_keys = [&](const Tensor& grad, int64_t which) {  // [H, n, w]
    return at::bmm(grad.permute({1, 2, 0}), half(query, which, type)).to(to);
  };
  return {needed[0] ? at::stack({of_query(grad1, keys1), of_query(grad2, keys2)}, 2).to(to) : Tensor(),
          needed[1] ? of_keys(grad1, 0) : Tensor(), needed[2] ? of_keys(grad2, 1) : Tensor()};
}

namespace {

std::vector<Tensor> search_gradient(const BackwardPass& pass) {
  const auto [query, keys1, keys2] =
      product_key_search_backward(pass.grad[0], pass.saved[3], pass.saved[0], pass.saved[1], pass.saved[2],
                                  {pass.needed[0], pass.needed[1], pass.needed[2]});
  return {query, keys1, keys2};
}

std::tuple<Tensor, Tensor> search_autograd_entry(const Tensor& query, const Tensor& keys1, const Tensor& keys2,
                                                 int64_t top_k, int64_t addresses) {
  return tuple_of<2>(once_differentiable<search_gradient>("product_key_search", {query, keys1, keys2}, [&] {
    const auto [score, index] = product_key_search(query, keys1, keys2, top_k, addresses);
    return ForwardPass{{score, index}, {query, keys1, keys2, index}};
  }));
}

}  // namespace

std::tuple<Tensor, Tensor> product_key_search(const Tensor& query, const Tensor& keys1, const Tensor& keys2,
                                              int64_t top_k, int64_t addresses) {
  return call_operator<"loci::product_key_search", decltype(product_key_search)>(query, keys1, keys2, top_k, addresses);
}

std::tuple<Tensor, Tensor, Tensor> product_key_search_backward(const Tensor& grad_score, const Tensor& index,
                                                               const Tensor& query, const Tensor& keys1,
                                                               const Tensor& keys2, std::array<bool, 3> needed) {
  return call_operator<"loci::product_key_search_backward", decltype(product_key_search_backward)>(
      grad_score, index, query, keys1, keys2, needed);
}

TORCH_LIBRARY_FRAGMENT(loci, m) {
  define_operator(m,
                  "product_key_search(Tensor query, Tensor keys1, Tensor keys2, int top_k, int addresses)"
                  " -> (Tensor score, Tensor index)",
                  product_key_search_definition, search_autograd_entry);
  define_operator(
      m,
      "product_key_search_backward(Tensor grad_score, Tensor index, Tensor query, Tensor keys1, Tensor keys2,"
      " bool[3] needed) -> (Tensor, Tensor, Tensor)",
      search_backward_definition, not_differentiable());
}

}  // namespace loci
