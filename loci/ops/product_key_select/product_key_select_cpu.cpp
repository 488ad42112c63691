#include "loci/ops/product_key_select/product_key_select_cpu.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>

#include "loci/ops/operator.h"
#include "loci/ops/product_key_select/product_key_select_definition.h"

// Legend: T tokens, H heads, K top_k.

namespace loci {

using at::Tensor;

const ProductKeySelectKernel& product_key_select_kernel_of(CpuLevel level) {
  return at_level(level, base::product_key_select_kernel, avx2::product_key_select_kernel,
                  avx512::product_key_select_kernel);
}

namespace {

template <typename Score>
void select_all(const ProductKeySelectShape& shape, const Tensor& score1, const Tensor& score2, Tensor& score,
                Tensor& index, const ProductKeySelectKernel& kernel,
                void (*select)(const ProductKeySelectShape&, const Score*, const Score*, Score*, int64_t*, void*)) {
  const int64_t H = score1.size(1), K = shape.top_k;
  const Score *from1 = score1.const_data_ptr<Score>(), *from2 = score2.const_data_ptr<Score>();
  Score* to_score = score.data_ptr<Score>();
  int64_t* to_index = index.data_ptr<int64_t>();
  const int64_t bytes = kernel.scratch_bytes(shape);
  at::parallel_for(0, score1.size(0) * H, /*grain=*/16, [&](int64_t begin, int64_t end) {
    const Tensor scratch = at::detail::empty_cpu({bytes + 64}, at::kByte);
    const auto start = reinterpret_cast<uintptr_t>(scratch.data_ptr());
    void* const memory = reinterpret_cast<void*>((start + 63) / 64 * 64);
    for (int64_t p = begin; p < end; ++p) {
      const int64_t t = p / H, h = p % H;
      select(shape, from1 + t * score1.stride(0) + h * score1.stride(1),
             from2 + t * score2.stride(0) + h * score2.stride(1), to_score + p * K, to_index + p * K, memory);
    }
  });
}

}  // namespace

bool product_key_select_cpu_takes(int64_t n1, int64_t n2, int64_t top_k) {
  return top_k <= kProductKeySelectMost && n1 < INT32_MAX && n2 < INT32_MAX;
}

std::tuple<Tensor, Tensor> product_key_select_cpu(const Tensor& score1, const Tensor& score2, int64_t top_k,
                                                  int64_t addresses, CpuLevel level) {
  check_product_key_select(score1, score2, top_k, addresses);
  if (!product_key_select_cpu_takes(score1.size(2), score2.size(2), top_k)) {
    return product_key_select_definition(score1, score2, top_k, addresses);
  }
  Tensor score = at::empty({score1.size(0), score1.size(1), top_k}, score1.options());  // [T, H, K]
  Tensor index = at::empty({score1.size(0), score1.size(1), top_k}, score1.options().dtype(at::kLong));
  const auto rows = [](const Tensor& scores) { return scores.stride(2) == 1 ? scores : scores.contiguous(); };
  const ProductKeySelectKernel& kernel = product_key_select_kernel_of(level);
  const ProductKeySelectShape shape{score1.size(2), score2.size(2), top_k, addresses};
  if (score1.scalar_type() == at::kDouble) {
    select_all<double>(shape, rows(score1), rows(score2), score, index, kernel, kernel.select_float64);
  } else {
    select_all<float>(shape, rows(score1), rows(score2), score, index, kernel, kernel.select_float32);
  }
  return {score, index};
}

TORCH_LIBRARY_IMPL(loci, CPU, m) {
  m.impl("product_key_select", at_cpu_level<product_key_select_cpu>);
}

}  // namespace loci
