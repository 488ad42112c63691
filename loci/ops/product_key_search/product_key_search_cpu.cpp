#include "loci/ops/product_key_search/product_key_search_cpu.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/bmm.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <c10/core/impl/LocalDispatchKeySet.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <memory>
#include <type_traits>
#include <vector>

#include "loci/ops/few_linear/few_linear_kernel.h"
#include "loci/ops/operator.h"
#include "loci/ops/product_key_search/product_key_search_definition.h"
#include "loci/ops/product_key_search/product_key_search_kernel.h"
#include "loci/ops/product_key_select/product_key_select_cpu.h"

// Legend: T tokens, H heads, w width of half a query, n1, n2 sub-keys of the halves, K top_k.

namespace loci {

using at::Tensor;

namespace {

// Tokens whose sub-scores are made, and searched while the cache still holds them.
constexpr int64_t kBlock = ProductKeySearchKernel::tokens;
// Bytes of all keys that the second-level cache holds in addition to a block's queries and scores.
constexpr int64_t kKeyBytes = int64_t{1} << 19;
// Up to so many tokens are searched one by one.
constexpr int64_t kFewTokens = 4;
// Multiply-adds worth a second thread.
constexpr int64_t kGrain = int64_t{1} << 17;
// Tokens whose key gradients are summed on their own, so that heads alone need not feed all threads; eight sums at
// most.
constexpr int64_t kChunk = 1024, kMostChunks = 8;
// Tokens of a chunk whose selected sub-keys are collected together, and used while the cache still holds them.
constexpr int64_t kCollected = 64;

const ProductKeySearchKernel& search_kernel_of(CpuLevel level) {
  return at_level(level, base::product_key_search_kernel, avx2::product_key_search_kernel,
                  avx512::product_key_search_kernel);
}

template <typename Real>
const ProductKeyGradients<Real>& gradients_of(CpuLevel level) {
  if constexpr (std::is_same_v<Real, double>) {
    return search_kernel_of(level).float64;
  } else {
    return search_kernel_of(level).float32;
  }
}

Tensor dense_rows(const Tensor& x) {
  return x.stride(-1) == 1 ? x : x.contiguous();
}

// One call of the search, for query and keys in float32 or bfloat16.
struct Search {
  const ProductKeySearchKernel& kernel;
  const FewLinearKernel& products;
  const ProductKeySelectKernel& selection;
  ProductKeySelectShape shape;
  Tensor query, keys[2];
  QueryElement element;
  int64_t T, H, w, n[2];
  Tensor score, index;  // [T, H, K]

  Search(const Tensor& query, const Tensor& keys1, const Tensor& keys2, int64_t top_k, int64_t addresses,
         CpuLevel level)
      : kernel(search_kernel_of(level)),
        products(at_level(level, base::few_linear_kernel, avx2::few_linear_kernel, avx512::few_linear_kernel)),
        selection(product_key_select_kernel_of(level)),
        shape{keys1.size(1), keys2.size(1), top_k, addresses},
        query(dense_rows(query)),
        keys{keys1.contiguous(), keys2.contiguous()},
        element(query.scalar_type() == at::kBFloat16 ? QueryElement::bfloat16 : QueryElement::float32),
        T(query.size(0)),
        H(query.size(1)),
        w(query.size(3)),
        n{shape.n1, shape.n2},
        score(at::empty({T, H, top_k}, query.options().dtype(at::kFloat))),
        index(at::empty({T, H, top_k}, query.options().dtype(at::kLong))) {}

  const void* query_of(int64_t t, int64_t h, int64_t half) const {
    const int64_t at = t * query.stride(0) + h * query.stride(1) + half * query.stride(2);
    return static_cast<const char*>(query.const_data_ptr()) + at * query.element_size();
  }
  const void* keys_of(int64_t h, int64_t half) const {
    return static_cast<const char*>(keys[half].const_data_ptr()) + h * n[half] * w * query.element_size();
  }

  // Buffers of a thread; a float vector's start is aligned for the selection by hand.
  struct Room {
    std::unique_ptr<float[]> score[2], block, selection_memory;
    void* aligned;
    Room(const Search& search, int64_t tokens) {
      for (int half : {0, 1}) score[half].reset(new float[tokens * search.n[half]]);
      block.reset(new float[(tokens + 4) * search.w]);
      const int64_t bytes = search.selection.scratch_bytes(search.shape);
      selection_memory.reset(new float[bytes / 4 + 16]);
      aligned = reinterpret_cast<void*>((reinterpret_cast<uintptr_t>(selection_memory.get()) + 63) / 64 * 64);
    }
  };

  int64_t grain(int64_t tokens) const {
    return std::max<int64_t>(1, kGrain / std::max<int64_t>(1, tokens * (n[0] + n[1]) * w));
  }

  // Sub-scores of one token, score [n]; the bits differ from those of a block.
  void few_scores(int64_t t, int64_t h, int64_t half, float* score) const {
    const auto run = [&]<class Element>(FewLinearFunction<Element> function) {
      function(static_cast<const Element*>(query_of(t, h, half)), w, 1, static_cast<const Element*>(keys_of(h, half)),
               nullptr, n[half], w, score, n[half]);
    };
    element == QueryElement::bfloat16 ? run(products.bfloat16) : run(products.float32);
  }

  void run_few() {
    at::parallel_for(0, T * H, grain(1), [&](int64_t first, int64_t last) {
      const Room room(*this, 1);
      for (int64_t p = first; p < last; ++p) {
        const int64_t t = p / H, h = p % H;
        for (int half : {0, 1}) few_scores(t, h, half, room.score[half].get());
        const int64_t at = p * shape.top_k;
        selection.select_float32(shape, room.score[0].get(), room.score[1].get(), score.data_ptr<float>() + at,
                                 index.data_ptr<int64_t>() + at, room.aligned);
      }
    });
  }

  struct Block {
    int64_t h, t, tokens;
  };

  // Blocks of tokens one after another, all heads of each, so that queries are read as they lie; heads first where not
  // all heads' keys stay in the second-level cache.
  Block block(int64_t task) const {
    const int64_t blocks = (T + kBlock - 1) / kBlock;
    const bool heads_first = H * (n[0] + n[1]) * w * int64_t{sizeof(float)} > kKeyBytes;
    const int64_t h = heads_first ? task / blocks : task % H, t = (heads_first ? task % blocks : task / H) * kBlock;
    return {h, t, std::min(kBlock, T - t)};
  }

  void run_blocks() {
    const Tensor wide[2] = {keys[0].to(at::kFloat), keys[1].to(at::kFloat)};
    const int64_t tasks = H * ((T + kBlock - 1) / kBlock);
    at::parallel_for(0, tasks, grain(kBlock), [&](int64_t first, int64_t last) {
      const Room room(*this, kBlock);
      for (int64_t task = first; task < last; ++task) {
        const auto [h, t, tokens] = block(task);
        for (int half : {0, 1}) {
          kernel.scores(query_of(t, h, half), element, query.stride(0), tokens,
                        wide[half].const_data_ptr<float>() + h * n[half] * w, n[half], w, room.score[half].get(),
                        room.block.get());
        }
        const Block next = block(std::min(task + 1, tasks - 1));
        for (int64_t i = 0; i < tokens; i += selection.lanes) {
          const int64_t count = std::min(selection.lanes, tokens - i), at = ((t + i) * H + h) * shape.top_k;
          for (int64_t token = i; token < std::min(i + count, next.tokens); ++token) {
            prefetch_query(next.t + token, next.h);
          }
          selection.select_lanes(shape, room.score[0].get() + i, room.score[1].get() + i, kBlock, count,
                                 score.data_ptr<float>() + at, index.data_ptr<int64_t>() + at, H * shape.top_k,
                                 room.aligned);
        }
      }
    });
  }

  // The next block's queries lie rows apart, where the CPU does not see them coming.
  void prefetch_query(int64_t t, int64_t h) const {
    for (int64_t half : {0, 1}) {
      const auto* const from = static_cast<const char*>(query_of(t, h, half));
      for (int64_t byte = 0; byte < w * query.element_size(); byte += 64) __builtin_prefetch(from + byte);
    }
  }
};

// What a few tokens selected, both halves of one head.
template <typename Real>
struct Selected {
  std::vector<int32_t> start[2], sub_key[2];
  std::vector<Real> grad[2], sums;
  std::vector<char> seen;
  SelectedSubKeys<Real> half[2];

  Selected(int64_t tokens, int64_t top_k, int64_t n1, int64_t n2) : sums(n1 + n2), seen(n1 + n2) {
    for (int which : {0, 1}) {
      start[which].resize(tokens + 1);
      sub_key[which].resize(tokens * top_k);
      grad[which].resize(tokens * top_k);
      half[which] = {start[which].data(), sub_key[which].data(), grad[which].data()};
    }
  }
};

// One call of the gradient. A task is a chunk of tokens and a head: no two write the same sums, and each adds its
// tokens in order.
template <typename Real>
struct SearchBackward {
  const ProductKeyGradients<Real>& kernel;
  const std::array<bool, 3> needed;
  const int64_t T, H, K, w, n[2];
  const int64_t chunk, chunks;
  const at::ScalarType type;
  const Tensor index, grad, query, keys[2];  // dense; query and keys in the gradient's type
  Tensor of_query, of_keys[2];               // [T, H, 2, w], [chunks, H, n, w]

  SearchBackward(const Tensor& grad_score, const Tensor& given_index, const Tensor& given_query, const Tensor& keys1,
                 const Tensor& keys2, CpuLevel level, std::array<bool, 3> needed)
      : kernel(gradients_of<Real>(level)),
        needed(needed),
        T(given_index.size(0)),
        H(given_index.size(1)),
        K(given_index.size(2)),
        w(given_query.size(3)),
        n{keys1.size(1), keys2.size(1)},
        chunk(std::max(kChunk, (T + kMostChunks - 1) / kMostChunks)),
        chunks((T + chunk - 1) / chunk),
        type(grad_score.scalar_type()),
        index(given_index.contiguous()),
        grad(grad_score.contiguous()),
        query(given_query.to(type).contiguous()),
        keys{keys1.to(type).contiguous(), keys2.to(type).contiguous()} {
    if (needed[0]) of_query = at::empty({T, H, 2, w}, grad.options());
    for (int which : {0, 1}) {
      if (needed[1 + which]) of_keys[which] = at::empty({chunks, H, n[which], w}, grad.options());
    }
  }

  // Returns the position of an index outside n1 * n2, at which it stopped, or -1.
  int64_t run_task(int64_t task, Selected<Real>& selected) const {
    const int64_t h = task % H, begin = task / H * chunk, end = std::min(T, begin + chunk);
    Real* sums[2] = {};
    for (int which : {0, 1}) {
      if (!needed[1 + which]) continue;
      sums[which] = of_keys[which].template mutable_data_ptr<Real>() + task * n[which] * w;
      std::fill_n(sums[which], n[which] * w, Real{0});
    }
    for (int64_t t = begin; t < end; t += kCollected) {
      const int64_t tokens = std::min(kCollected, end - t), at = t * H + h, stride = H * 2 * w;
      const int64_t wrong = kernel.collect(
          index.const_data_ptr<int64_t>() + at * K, grad.template const_data_ptr<Real>() + at * K, H * K, tokens, K,
          n[0], n[1], selected.half[0], selected.half[1], selected.sums.data(), selected.seen.data());
      if (wrong >= 0) return at * K + wrong;
      for (int which : {0, 1}) {
        const int64_t offset = at * 2 * w + which * w;
        if (needed[0]) {
          kernel.grad_query(selected.half[which], keys[which].template const_data_ptr<Real>() + h * n[which] * w,
                            tokens, w, of_query.template mutable_data_ptr<Real>() + offset, stride);
        }
        if (needed[1 + which]) {
          kernel.grad_keys(selected.half[which], query.template const_data_ptr<Real>() + offset, stride, tokens, w,
                           sums[which]);
        }
      }
    }
    return -1;
  }

  // The sum over the chunks in order, [H, n, w].
  Tensor sum_of_keys(int which, at::ScalarType to) const {
    if (!needed[1 + which]) return {};
    if (chunks == 0) return at::zeros({H, n[which], w}, grad.options().dtype(to));
    Tensor sum = of_keys[which][0];
    for (int64_t c = 1; c < chunks; ++c) sum += of_keys[which][c];
    return sum.to(to);
  }

  std::tuple<Tensor, Tensor, Tensor> run(at::ScalarType to) const {
    std::atomic<int64_t> bad = -1;
    at::parallel_for(0, chunks * H, /*grain=*/1, [&](int64_t first, int64_t last) {
      Selected<Real> selected(std::min(kCollected, T), K, n[0], n[1]);
      for (int64_t task = first; task < last; ++task) {
        const int64_t position = run_task(task, selected);
        if (position < 0) continue;
        bad = position;
        return;
      }
    });
    TORCH_CHECK_INDEX(bad < 0, "product_key_search_backward: index must be within 0 .. ", n[0] * n[1] - 1, ", got ",
                      index.view(-1)[bad.load()].template item<int64_t>());
    return {needed[0] ? of_query.to(to) : Tensor(), sum_of_keys(0, to), sum_of_keys(1, to)};
  }
};

}  // namespace

std::tuple<Tensor, Tensor> product_key_search_cpu(const Tensor& query, const Tensor& keys1, const Tensor& keys2,
                                                  int64_t top_k, int64_t addresses, CpuLevel level) {
  check_product_key_search(query, keys1, keys2, top_k, addresses);
  if (!product_key_select_cpu_takes(keys1.size(1), keys2.size(1), top_k)) {
    return product_key_search_definition(query, keys1, keys2, top_k, addresses);
  }
  if (query.scalar_type() == at::kDouble) {
    const auto scores = [&](int64_t half, const Tensor& keys) {
      return at::bmm(query.select(2, half).transpose(0, 1), keys.transpose(1, 2)).transpose(0, 1);
    };
    return product_key_select_cpu(scores(0, keys1), scores(1, keys2), top_k, addresses, level);
  }
  const bool as_it_is = query.scalar_type() == at::kFloat || query.scalar_type() == at::kBFloat16;
  const auto type = as_it_is ? query.scalar_type() : at::kFloat;
  Search search(query.to(type), keys1.to(type), keys2.to(type), top_k, addresses, level);
  search.T <= kFewTokens ? search.run_few() : search.run_blocks();
  return {search.score, search.index};
}

std::tuple<Tensor, Tensor, Tensor> search_backward_cpu(const Tensor& grad_score, const Tensor& index,
                                                       const Tensor& query, const Tensor& keys1, const Tensor& keys2,
                                                       std::array<bool, 3> needed, CpuLevel level) {
  check_product_key_search_backward(grad_score, index, query, keys1, keys2);
  const auto to = query.scalar_type();
  if (grad_score.scalar_type() == at::kDouble) {
    return SearchBackward<double>(grad_score, index, query, keys1, keys2, level, needed).run(to);
  }
  return SearchBackward<float>(grad_score, index, query, keys1, keys2, level, needed).run(to);
}

TORCH_LIBRARY_IMPL(loci, CPU, m) {
  m.impl("product_key_search", at_cpu_level<product_key_search_cpu>);
  m.impl("product_key_search_backward", at_cpu_level<search_backward_cpu>);
}

}  // namespace loci
