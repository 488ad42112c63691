// Legend: M references, S sources, D width, U distinct rows, C chunks of references (one a thread).
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <memory>
#include <tuple>
#include <utility>
#include <vector>

#include "loci/base/cpu_level.h"
#include "loci/ops/row_sum/row_sum_definition.h"

namespace loci {
namespace {

using at::Tensor;

struct Reference {
  int64_t row;
  int64_t position;
};

// Work on 0 .. size-1 in `chunks` equal parts; at least some thousand references each.
struct Chunks {
  explicit Chunks(int64_t size) : size(size), count(std::clamp<int64_t>(size / 4096, 1, at::get_num_threads())) {}
  int64_t begin(int64_t chunk) const { return size * chunk / count; }
  template <class Work>
  void run(const Work& work) const {
    at::parallel_for(0, count, 1, [&](int64_t first, int64_t last) {
      for (int64_t chunk = first; chunk < last; ++chunk) work(chunk, begin(chunk), begin(chunk + 1));
    });
  }
  int64_t size;
  int64_t count;
};

struct References {
  std::unique_ptr<Reference[]> item;
  int64_t size = 0;
  int64_t largest_row = 0;
};

// The references whose coefficient is not 0, in their order. Checks rows and source indices.
template <class Real>
References kept_references(const int64_t* row, const Real* coefficient, const int64_t* source_index, int64_t size,
                           int64_t sources) {
  const Chunks chunks(size);
  std::vector<int64_t> kept(chunks.count + 1, 0);
  std::vector<int64_t> largest(chunks.count, 0);
  std::atomic<int64_t> bad{-1};
  chunks.run([&](int64_t chunk, int64_t begin, int64_t end) {
    int64_t count = 0;
    for (int64_t m = begin; m < end; ++m) {
      if (row[m] < 0 || source_index[m] < 0 || source_index[m] >= sources) bad = m;
      if (coefficient[m] == 0) continue;
      ++count;
      largest[chunk] = std::max(largest[chunk], row[m]);
    }
    kept[chunk + 1] = count;
  });
  if (const int64_t m = bad; m >= 0) {
    TORCH_CHECK_INDEX(row[m] >= 0, "row_sum: row must be at least 0, got ", row[m]);
    TORCH_CHECK_INDEX(false, "row_sum: source_index must be within 0 .. ", sources - 1, ", got ", source_index[m]);
  }
  for (int64_t chunk = 0; chunk < chunks.count; ++chunk) kept[chunk + 1] += kept[chunk];
  References out;
  out.size = kept[chunks.count];
  out.item = std::make_unique_for_overwrite<Reference[]>(out.size);
  out.largest_row = *std::max_element(largest.begin(), largest.end());
  chunks.run([&](int64_t chunk, int64_t begin, int64_t end) {
    int64_t place = kept[chunk];
    for (int64_t m = begin; m < end; ++m) {
      if (coefficient[m] != 0) out.item[place++] = {row[m], m};
    }
  });
  return out;
}

// Stable radix sort by row, from the lowest digit. A stable order is unique: it does not depend on the chunks.
void sort_by_row(References& references) {
  const int bits = std::max<int>(1, std::bit_width(static_cast<uint64_t>(references.largest_row)));
  const int passes = (bits + 10) / 11;
  const int digit_bits = (bits + passes - 1) / passes;
  const int64_t digits = int64_t{1} << digit_bits;
  const Chunks chunks(references.size);
  auto other = std::make_unique_for_overwrite<Reference[]>(references.size);
  std::vector<int64_t> place(chunks.count * digits);
  for (int pass = 0; pass < passes; ++pass) {
    const auto digit_of = [shift = pass * digit_bits, digits](const Reference& reference) {
      return (reference.row >> shift) & (digits - 1);
    };
    std::fill(place.begin(), place.end(), 0);
    chunks.run([&](int64_t chunk, int64_t begin, int64_t end) {
      int64_t* count = place.data() + chunk * digits;
      for (int64_t m = begin; m < end; ++m) ++count[digit_of(references.item[m])];
    });
    int64_t before = 0;
    for (int64_t digit = 0; digit < digits; ++digit) {
      for (int64_t chunk = 0; chunk < chunks.count; ++chunk) {
        before += std::exchange(place[chunk * digits + digit], before);
      }
    }
    chunks.run([&](int64_t chunk, int64_t begin, int64_t end) {
      int64_t* next = place.data() + chunk * digits;
      for (int64_t m = begin; m < end; ++m) other[next[digit_of(references.item[m])]++] = references.item[m];
    });
    std::swap(references.item, other);
  }
}

template <class Real>
void sum_rows_at_level(const RowSumArguments<Real>& arguments, int64_t first, int64_t last, Real* block) {
  switch (cpu_level()) {
    case CpuLevel::base: return base::sum_rows(arguments, first, last, block);
    case CpuLevel::avx2: return avx2::sum_rows(arguments, first, last, block);
    case CpuLevel::avx512: return avx512::sum_rows(arguments, first, last, block);
  }
}

template <class Real>
std::tuple<Tensor, Tensor> row_sum_of(const Tensor& row, const Tensor& coefficient, const Tensor& source_index,
                                      const Tensor& source) {
  const int64_t width = source.size(1);
  References references = kept_references(row.const_data_ptr<int64_t>(), coefficient.const_data_ptr<Real>(),
                                          source_index.const_data_ptr<int64_t>(), row.size(0), source.size(0));
  sort_by_row(references);
  std::vector<int64_t> order(references.size);
  std::vector<int64_t> begin;  // [U + 1]
  for (int64_t m = 0; m < references.size; ++m) {
    order[m] = references.item[m].position;
    if (m == 0 || references.item[m].row != references.item[m - 1].row) begin.push_back(m);
  }
  const auto distinct = static_cast<int64_t>(begin.size());
  begin.push_back(references.size);

  Tensor rows = at::empty({distinct}, row.options());
  for (int64_t u = 0; u < distinct; ++u) rows.mutable_data_ptr<int64_t>()[u] = references.item[begin[u]].row;
  Tensor gradient = at::empty({distinct, width}, source.options());
  const RowSumArguments<Real> arguments{begin.data(),
                                        order.data(),
                                        coefficient.const_data_ptr<Real>(),
                                        source_index.const_data_ptr<int64_t>(),
                                        source.const_data_ptr<Real>(),
                                        width,
                                        gradient.mutable_data_ptr<Real>()};
  // Chunks of equal numbers of references, moved to the next row's begin.
  const auto row_at = [&](int64_t m) { return std::lower_bound(begin.begin(), begin.end() - 1, m) - begin.begin(); };
  Chunks(references.size).run([&](int64_t, int64_t first, int64_t last) {
    std::vector<Real> block(width);
    sum_rows_at_level(arguments, row_at(first), row_at(last), block.data());
  });
  return {rows, gradient};
}

std::tuple<Tensor, Tensor> row_sum_cpu(const Tensor& row, const Tensor& coefficient, const Tensor& source_index,
                                       const Tensor& source) {
  check_row_sum(row, coefficient, source_index, source);
  const auto sum = source.scalar_type() == at::kFloat ? row_sum_of<float> : row_sum_of<double>;
  return sum(row.contiguous(), coefficient.contiguous(), source_index.contiguous(), source.contiguous());
}

TORCH_LIBRARY_IMPL(loci, CPU, m) { m.impl("row_sum", row_sum_cpu); }

}  // namespace
}  // namespace loci
