// Legend: T tokens, H heads, K top_k, n1, n2 sub-keys of the halves.
#include "loci/nn/memory/sub_key_counts.h"

#include <ATen/ops/zeros.h>
#include <c10/core/InferenceMode.h>
#include <c10/util/Exception.h>

#include <limits>
#include <numeric>

#include "loci/ops/operator.h"

namespace loci {
namespace {

at::Tensor zero_counts(int64_t heads, int64_t sub_keys) {
  const c10::InferenceMode writable(false);
  return at::zeros({heads, sub_keys}, at::kLong);
}

// floor(pair / n2) of pairs below 2^32 by a multiplication (Lemire, Kaser and Kurz 2019, "Faster remainder by direct
// computation"): a division is half of the work otherwise.
class NarrowQuotient {
 public:
  explicit NarrowQuotient(int64_t n2)
      : reciprocal_(n2 == 1 ? 0 : std::numeric_limits<uint64_t>::max() / static_cast<uint64_t>(n2) + 1) {}
  uint64_t operator()(uint64_t pair) const {
    __extension__ typedef unsigned __int128 Wide;
    return reciprocal_ == 0 ? pair : static_cast<uint64_t>((static_cast<Wide>(reciprocal_) * pair) >> 64);
  }

 private:
  uint64_t reciprocal_;
};

class WideQuotient {
 public:
  explicit WideQuotient(int64_t n2) : n2_(static_cast<uint64_t>(n2)) {}
  uint64_t operator()(uint64_t pair) const { return pair / n2_; }

 private:
  uint64_t n2_;
};

// address [T, H, K], counts [H, n1 + n2].
template <class Quotient>
void count_pairs(const at::Tensor& addresses, int64_t n1, int64_t n2, const at::Tensor& counts) {
  const int64_t T = addresses.size(0), H = addresses.size(1), K = addresses.size(2);
  const int64_t* address = addresses.const_data_ptr<int64_t>();
  auto* const of_heads = counts.mutable_data_ptr<int64_t>();
  const auto pairs = static_cast<uint64_t>(n1 * n2);
  const Quotient quotient(n2);
  for (int64_t t = 0; t < T; ++t) {
    int64_t* first = of_heads;
    for (int64_t h = 0; h < H; ++h, first += n1 + n2) {
      int64_t* const second = first + n1;
      for (int64_t r = 0; r < K; ++r, ++address) {
        const auto pair = static_cast<uint64_t>(*address);
        TORCH_CHECK(pair < pairs, "SubKeyCounts: address must be within 0 .. ", pairs - 1, ", got ", *address);
        const uint64_t i = quotient(pair);
        ++first[i];
        ++second[pair - i * static_cast<uint64_t>(n2)];
      }
    }
  }
}

}  // namespace

void count_sub_keys(const at::Tensor& counts, const at::Tensor& address, int64_t n2) {
  TORCH_CHECK(counts.dim() == 2 && counts.scalar_type() == at::kLong && counts.is_contiguous() && n2 >= 1 &&
                  counts.sym_size(1) > n2,
              "SubKeyCounts: counts must be int64 [H, n1 + ", n2, "], got ", counts.scalar_type(), " ",
              counts.sym_sizes());
  TORCH_CHECK(address.dim() == 3 && address.scalar_type() == at::kLong && address.sym_size(1) == counts.sym_size(0),
              "SubKeyCounts: address must be int64 [T, ", counts.sym_size(0), ", K], got ", address.scalar_type(), " ",
              address.sym_sizes());
  TORCH_CHECK(address.device() == counts.device() && (counts.is_cpu() || counts.is_meta()),
              "SubKeyCounts: counts and address must be on cpu, got ", counts.device(), " and ", address.device());
  if (counts.is_meta()) return;
  const int64_t n1 = counts.size(1) - n2;
  const bool narrow = n1 * n2 <= std::numeric_limits<uint32_t>::max();
  (narrow ? count_pairs<NarrowQuotient> : count_pairs<WideQuotient>)(address.contiguous(), n1, n2, counts);
}

std::span<const int64_t> counts_of_half(const at::Tensor& counts, int64_t n1, int64_t head, int64_t half) {
  const int64_t* const first = counts.const_data_ptr<int64_t>() + head * counts.size(1);
  return {half == 0 ? first : first + n1, static_cast<size_t>(half == 0 ? n1 : counts.size(1) - n1)};
}

SubKeyCounts::SubKeyCounts(const ProductKeyMemory& memory)
    : n1_(memory.sub_keys1()), n2_(memory.sub_keys2()), counts_(zero_counts(memory.options().heads, n1_ + n2_)) {}

void SubKeyCounts::reads(const MemoryReads& reads) {
  count_sub_keys(counts_, reads.address.to(at::kCPU), n2_);
}

std::span<const int64_t> SubKeyCounts::of(int64_t head, int64_t half) const {
  return counts_of_half(counts_, n1_, head, half);
}

void SubKeyCounts::clear() {
  counts_.zero_();
}

SubKeyCounts SubKeyCounts::merged(const Ranks& ranks) const {
  SubKeyCounts result = *this;
  result.counts_ = counts_.clone();
  sum_over(ranks)({result.counts_});
  return result;
}

double least_live_count(std::span<const int64_t> counts, double dead_below) {
  const auto sum = std::accumulate(counts.begin(), counts.end(), int64_t{0});
  return dead_below * static_cast<double>(sum) / static_cast<double>(counts.size());
}

double alive_share(const SubKeyCounts& counts) {
  int64_t alive = 0, all = 0;
  for (int64_t h = 0; h < counts.heads(); ++h) {
    for (int64_t p = 0; p < 2; ++p) {
      const std::span<const int64_t> of = counts.of(h, p);
      const double least = least_live_count(of, kDeadShare);
      for (const int64_t count : of) alive += static_cast<double>(count) >= least;
      all += std::ssize(of);
    }
  }
  return static_cast<double>(alive) / static_cast<double>(all);
}

// For memories in Python, compiled ones too.
TORCH_LIBRARY_FRAGMENT(loci, m) {
  define_operator(m, "count_sub_keys_(Tensor(a!) counts, Tensor address, int n2) -> ()", count_sub_keys,
                  torch::CppFunction::makeFallthrough());
}
TORCH_LIBRARY_IMPL(loci, ADInplaceOrView, m) {
  m.impl("count_sub_keys_", moves_versions());
}

}  // namespace loci
