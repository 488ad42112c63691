#include "loci/ops/binary_linear/binary_linear_cpu.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <vector>

#include "loci/ops/binary_linear/binary_linear_definition.h"
#include "loci/ops/binary_linear/binary_linear_kernel.h"
#include "loci/ops/operator.h"

// Legend: T vectors, K inputs, O outputs.

namespace loci {

using at::Tensor;

namespace {

constexpr int64_t kSigns = 64;  // of a word
// Vectors and outputs of a piece of work: the words of both stay in the nearest caches. Outputs fill a word.
constexpr int64_t kVectorsTogether = 64, kOutputsTogether = kSigns;
constexpr int64_t kBinaryGrain = int64_t{1} << 16;  // words of products worth a thread
constexpr int64_t kPackGrain = int64_t{1} << 16;    // numbers

const BinaryLinearKernel& kernel_of(CpuLevel level) {
  return at_level(level, base::binary_linear_kernel, avx2::binary_linear_kernel, avx512::binary_linear_kernel);
}

BinaryLinearKernel::Products products_of(CpuLevel level) {
  const BinaryLinearKernel& kernel = kernel_of(level);
  return kernel.products_by_popcount != nullptr && cpu_has_vpopcntdq() ? kernel.products_by_popcount : kernel.products;
}

const uint64_t* words_in(const Tensor& bits) {
  return reinterpret_cast<const uint64_t*>(bits.const_data_ptr<int64_t>());
}

uint64_t* words_of_result(const Tensor& bits) {
  return reinterpret_cast<uint64_t*>(bits.mutable_data_ptr<int64_t>());
}

int64_t words_for(int64_t signs) {
  return (signs + kSigns - 1) / kSigns;
}

// Calls run(first vector, vectors, first output, outputs) for pieces of [T, O]. Neighbours share their outputs.
template <class Run>
void over_pieces(int64_t T, int64_t O, int64_t words, const Run& run) {
  const int64_t down = (T + kVectorsTogether - 1) / kVectorsTogether, across = words_for(O);
  const int64_t work = std::min(T, kVectorsTogether) * kOutputsTogether * std::max<int64_t>(1, words);
  at::parallel_for(0, down * across, std::max<int64_t>(1, kBinaryGrain / std::max<int64_t>(1, work)),
                   [&](int64_t begin, int64_t end) {
                     for (int64_t piece = begin; piece < end; ++piece) {
                       const int64_t t = piece % down * kVectorsTogether, o = piece / down * kOutputsTogether;
                       run(t, std::min(kVectorsTogether, T - t), o, std::min(kOutputsTogether, O - o));
                     }
                   });
}

}  // namespace

Tensor sign_pack_cpu(const Tensor& input, CpuLevel level) {
  check_sign_pack(input);
  if (input.scalar_type() != at::kFloat) return sign_pack_definition(input);
  const Tensor x = input.contiguous();
  std::vector<int64_t> sizes = x.sizes().vec();
  const int64_t K = sizes.back(), words = words_for(K);
  sizes.back() = words;
  Tensor bits = at::empty(sizes, x.options().dtype(at::kLong));
  const auto pack = kernel_of(level).pack;
  const float* const from = x.const_data_ptr<float>();
  uint64_t* const to = words_of_result(bits);
  const int64_t rows = words == 0 ? 0 : bits.numel() / words;
  at::parallel_for(0, rows, std::max<int64_t>(1, kPackGrain / std::max<int64_t>(1, K)),
                   [&](int64_t begin, int64_t end) {
                     for (int64_t row = begin; row < end; ++row) pack(from + row * K, K, to + row * words);
                   });
  return bits;
}

Tensor binary_linear_cpu(const Tensor& a, const Tensor& b, int64_t inputs, CpuLevel level) {
  check_binary_linear(a, b, inputs);
  const Tensor vectors = a.contiguous(), weight = b.contiguous();
  const int64_t T = a.size(0), O = b.size(0), words = a.size(1);
  Tensor y = at::empty({T, O}, a.options().dtype(at::kInt));
  const auto products = products_of(level);
  const uint64_t *const from = words_in(vectors), *const w = words_in(weight);
  int32_t* const to = y.mutable_data_ptr<int32_t>();
  over_pieces(T, O, words, [&](int64_t t, int64_t count, int64_t o, int64_t outputs) {
    products(from + t * words, count, w + o * words, outputs, words, inputs, to + t * O + o, O);
  });
  return y;
}

Tensor binary_threshold_cpu(const Tensor& y, const Tensor& threshold, const Tensor& turned, CpuLevel level) {
  if (y.dim() != 2 || y.scalar_type() != at::kInt) return binary_threshold_definition(y, threshold, turned);  // refuses
  const int64_t T = y.size(0), O = y.size(1), words = words_for(O);
  check_binary_threshold(O, y, threshold, turned);
  const Tensor values = y.contiguous(), least = threshold.contiguous(), other = turned.contiguous();
  Tensor bits = at::empty({T, words}, y.options().dtype(at::kLong));
  const auto compare = kernel_of(level).threshold;
  const int32_t *const from = values.const_data_ptr<int32_t>(), *const at_least = least.const_data_ptr<int32_t>();
  const uint64_t* const turns = words_in(other);
  uint64_t* const to = words_of_result(bits);
  at::parallel_for(0, T, std::max<int64_t>(1, kPackGrain / std::max<int64_t>(1, O)), [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) compare(from + t * O, O, at_least, turns, to + t * words);
  });
  return bits;
}

// The products of a piece stay in the nearest cache until they are bits.
Tensor binary_layer_cpu(const Tensor& a, const Tensor& b, int64_t inputs, const Tensor& threshold, const Tensor& turned,
                        CpuLevel level) {
  check_binary_linear(a, b, inputs);
  const int64_t T = a.size(0), O = b.size(0), words = a.size(1), out_words = words_for(O);
  check_binary_threshold(O, a, threshold, turned);
  const Tensor vectors = a.contiguous(), weight = b.contiguous();
  const Tensor least = threshold.contiguous(), other = turned.contiguous();
  Tensor bits = at::empty({T, out_words}, a.options());
  const auto products = products_of(level);
  const auto compare = kernel_of(level).threshold;
  const uint64_t *const from = words_in(vectors), *const w = words_in(weight), *const turns = words_in(other);
  const int32_t* const at_least = least.const_data_ptr<int32_t>();
  uint64_t* const to = words_of_result(bits);
  over_pieces(T, O, words, [&](int64_t t, int64_t count, int64_t o, int64_t outputs) {
    int32_t y[kVectorsTogether * kOutputsTogether];
    products(from + t * words, count, w + o * words, outputs, words, inputs, y, kOutputsTogether);
    for (int64_t i = 0; i < count; ++i) {
      compare(y + i * kOutputsTogether, outputs, at_least + o, turns + o / kSigns,
              to + (t + i) * out_words + o / kSigns);
    }
  });
  return bits;
}

TORCH_LIBRARY_IMPL(loci, CPU, m) {
  m.impl("sign_pack", at_cpu_level<sign_pack_cpu>);
  m.impl("binary_linear", at_cpu_level<binary_linear_cpu>);
  m.impl("binary_threshold", at_cpu_level<binary_threshold_cpu>);
  m.impl("binary_layer", at_cpu_level<binary_layer_cpu>);
}

}  // namespace loci
