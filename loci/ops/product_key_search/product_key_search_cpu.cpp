#include "loci/ops/product_key_search/product_key_search_cpu.h"

#include <ATen/Parallel.h>
#include <ATen/ops/bmm.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <torch/library.h>

#include <algorithm>
#include <vector>

#include "loci/ops/product_key_search/product_key_search_definition.h"
#include "loci/ops/product_key_search/product_key_search_kernel.h"
#include "loci/ops/product_key_select/product_key_select_cpu.h"

// Legend: T tokens, H heads, P = T * H, w width of half a query, n1, n2 sub-keys of the halves, K top_k.

namespace loci {

using at::Tensor;

namespace {

template <typename Real>
const ProductKeySearchKernel<Real>& kernel_of(CpuLevel level) {
  constexpr bool is_double = std::is_same_v<Real, double>;
  switch (level) {
    case CpuLevel::base:
      if constexpr (is_double)
        return base::product_key_search_float64;
      else
        return base::product_key_search_float32;
    case CpuLevel::avx2:
      if constexpr (is_double)
        return avx2::product_key_search_float64;
      else
        return avx2::product_key_search_float32;
    case CpuLevel::avx512:
      if constexpr (is_double)
        return avx512::product_key_search_float64;
      else
        return avx512::product_key_search_float32;
  }
  __builtin_unreachable();
}

// Tokens whose sub-scores are made, and searched while the cache still holds them (measured: see bench).
int64_t tokens_at_once(int64_t T, int64_t bytes_per_token) {
  constexpr int64_t cache_bytes = int64_t{2} << 20;
  return std::clamp<int64_t>(cache_bytes / std::max<int64_t>(1, bytes_per_token), 16, std::max<int64_t>(16, T));
}

// The first `size` tokens of a [H, block, n] buffer, dense.
Tensor part_of(const Tensor& buffer, int64_t size) {
  const int64_t H = buffer.size(0), n = buffer.size(2);
  return buffer.view(-1).narrow(0, 0, H * size * n).view({H, size, n});
}

// Both halves of what was selected.
template <typename Real>
struct Selection {
  Tensor sub_keys, grads, counts;  // [2, P, K], [2, P, K], [2, P]
  SelectedSubKeys<Real> half[2];

  Selection(const Tensor& grad_score, const Tensor& index, int64_t n1, int64_t n2, int64_t w,
            const ProductKeySearchKernel<Real>& kernel) {
    const int64_t H = index.size(1), K = index.size(2), P = index.size(0) * H;
    sub_keys = at::empty({2, P, K}, index.options().dtype(at::kInt));
    counts = at::empty({2, P}, index.options().dtype(at::kInt));
    grads = at::empty({2, P, K}, grad_score.options());
    for (int which : {0, 1}) {
      half[which] = {sub_keys.data_ptr<int32_t>() + which * P * K,
                     grads.data_ptr<Real>() + which * P * K,
                     counts.data_ptr<int32_t>() + which * P,
                     K,
                     H,
                     which == 0 ? n1 : n2,
                     w};
    }
    const Tensor dense_index = index.contiguous(), dense_grad = grad_score.contiguous();
    const int64_t* const from = dense_index.const_data_ptr<int64_t>();
    for (int64_t p = 0; p < P * K; ++p) {
      TORCH_CHECK_INDEX(from[p] >= 0 && from[p] < n1 * n2, "product_key_search: index must be within 0 .. ",
                        n1 * n2 - 1, ", got ", from[p]);
    }
    at::parallel_for(0, P, /*grain=*/256, [&](int64_t first, int64_t last) {
      std::vector<Real> sums(n1 + n2);
      std::vector<char> seen(n1 + n2);
      kernel.collect(from, dense_grad.const_data_ptr<Real>(), first, last, half[0], half[1], sums.data(), seen.data());
    });
  }
};

template <typename Real>
Tensor backward_query(const Tensor& grad_score, const Tensor& index, const Tensor& keys1, const Tensor& keys2,
                      CpuLevel level) {
  const ProductKeySearchKernel<Real>& kernel = kernel_of<Real>(level);
  const int64_t T = index.size(0), H = index.size(1), w = keys1.size(2);
  const Selection<Real> selection(grad_score, index, keys1.size(1), keys2.size(1), w, kernel);
  const Tensor keys[2] = {keys1.to(grad_score.scalar_type()).contiguous(),
                          keys2.to(grad_score.scalar_type()).contiguous()};
  Tensor out = at::empty({T, H, 2, w}, grad_score.options());
  at::parallel_for(0, T * H, /*grain=*/64, [&](int64_t first, int64_t last) {
    for (int which : {0, 1}) {
      kernel.grad_query(selection.half[which], keys[which].const_data_ptr<Real>(), out.data_ptr<Real>() + which * w,
                        2 * w, first, last);
    }
  });
  return out.to(keys1.scalar_type());
}

template <typename Real>
std::tuple<Tensor, Tensor> backward_keys(const Tensor& grad_score, const Tensor& index, const Tensor& query, int64_t n1,
                                         int64_t n2, CpuLevel level) {
  const ProductKeySearchKernel<Real>& kernel = kernel_of<Real>(level);
  const int64_t T = index.size(0), H = index.size(1), w = query.size(3);
  const Selection<Real> selection(grad_score, index, n1, n2, w, kernel);
  const Tensor dense_query = query.to(grad_score.scalar_type()).contiguous();  // [T, H, 2, w]
  Tensor out[2] = {at::zeros({H, n1, w}, grad_score.options()), at::zeros({H, n2, w}, grad_score.options())};
  // A task is a half, a head and some columns: no two write the same sums, and each adds the tokens in order.
  constexpr int64_t columns = 32;
  const int64_t pieces = (w + columns - 1) / columns;
  at::parallel_for(0, 2 * H * pieces, /*grain=*/1, [&](int64_t first, int64_t last) {
    for (int64_t task = first; task < last; ++task) {
      const int64_t which = task / (H * pieces), head = task / pieces % H, begin = task % pieces * columns;
      kernel.grad_keys(selection.half[which], dense_query.const_data_ptr<Real>() + which * w, 2 * w, T, head, begin,
                       std::min(w, begin + columns), out[which].data_ptr<Real>());
    }
  });
  return {out[0].to(query.scalar_type()), out[1].to(query.scalar_type())};
}

std::tuple<Tensor, Tensor> search_entry(const Tensor& query, const Tensor& keys1, const Tensor& keys2, int64_t top_k,
                                        int64_t addresses) {
  return product_key_search_cpu(query, keys1, keys2, top_k, addresses, cpu_level());
}

Tensor backward_query_entry(const Tensor& grad_score, const Tensor& index, const Tensor& keys1, const Tensor& keys2) {
  return search_backward_query_cpu(grad_score, index, keys1, keys2, cpu_level());
}

std::tuple<Tensor, Tensor> backward_keys_entry(const Tensor& grad_score, const Tensor& index, const Tensor& query,
                                               int64_t n1, int64_t n2) {
  return search_backward_keys_cpu(grad_score, index, query, n1, n2, cpu_level());
}

}  // namespace

std::tuple<Tensor, Tensor> product_key_search_cpu(const Tensor& query, const Tensor& keys1, const Tensor& keys2,
                                                  int64_t top_k, int64_t addresses, CpuLevel level) {
  check_product_key_search(query, keys1, keys2, top_k, addresses);
  const int64_t T = query.size(0), H = query.size(1), n1 = keys1.size(1), n2 = keys2.size(1);
  if (!product_key_select_cpu_takes(n1, n2, top_k)) {
    return product_key_search_definition(query, keys1, keys2, top_k, addresses);
  }
  // Scores keep their precision under autocast, which would make the products below bfloat16.
  const c10::impl::ExcludeDispatchKeyGuard without_autocast(c10::autocast_dispatch_keyset);
  const auto type = search_score_dtype(query.scalar_type());
  const auto options = query.options().dtype(type);
  const Tensor across1 = keys1.to(type).transpose(1, 2), across2 = keys2.to(type).transpose(1, 2);  // [H, w, n]
  const int64_t block = tokens_at_once(T, H * (n1 + n2) * static_cast<int64_t>(options.dtype().itemsize()));
  Tensor buffer1 = at::empty({H, block, n1}, options), buffer2 = at::empty({H, block, n2}, options);
  Tensor score = at::empty({T, H, top_k}, options), index = at::empty({T, H, top_k}, options.dtype(at::kLong));
  for (int64_t t = 0; t < T; t += block) {
    const int64_t size = std::min(block, T - t);
    const Tensor part = query.narrow(0, t, size).to(type);  // [size, H, 2, w]
    Tensor score1 = part_of(buffer1, size), score2 = part_of(buffer2, size);
    at::bmm_out(score1, part.select(2, 0).transpose(0, 1), across1);
    at::bmm_out(score2, part.select(2, 1).transpose(0, 1), across2);
    Tensor to_score = score.narrow(0, t, size), to_index = index.narrow(0, t, size);
    product_key_select_into(score1.transpose(0, 1), score2.transpose(0, 1), addresses, to_score, to_index, level);
  }
  return {score, index};
}

Tensor search_backward_query_cpu(const Tensor& grad_score, const Tensor& index, const Tensor& keys1,
                                 const Tensor& keys2, CpuLevel level) {
  check_search_backward_query(grad_score, index, keys1, keys2);
  return grad_score.scalar_type() == at::kDouble ? backward_query<double>(grad_score, index, keys1, keys2, level)
                                                 : backward_query<float>(grad_score, index, keys1, keys2, level);
}

std::tuple<Tensor, Tensor> search_backward_keys_cpu(const Tensor& grad_score, const Tensor& index, const Tensor& query,
                                                    int64_t n1, int64_t n2, CpuLevel level) {
  check_search_backward_keys(grad_score, index, query);
  return grad_score.scalar_type() == at::kDouble ? backward_keys<double>(grad_score, index, query, n1, n2, level)
                                                 : backward_keys<float>(grad_score, index, query, n1, n2, level);
}

TORCH_LIBRARY_IMPL(loci, CPU, m) {
  m.impl("product_key_search", search_entry);
  m.impl("product_key_search_backward_query", backward_query_entry);
  m.impl("product_key_search_backward_keys", backward_keys_entry);
}

}  // namespace loci
