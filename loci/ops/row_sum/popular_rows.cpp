#include "loci/ops/row_sum/popular_rows.h"

#include <algorithm>
#include <atomic>
#include <utility>

namespace loci {
namespace {

constexpr int64_t kPopularReferences = 16 * kRowSumBlock;
constexpr int64_t kTasksPerThread = 16;

}  // namespace

template <class Real>
const RowSumFunctions<Real>& row_sum_functions(CpuLevel level) {
  const RowSumKernel& kernel = at_level(level, base::row_sum_kernel, avx2::row_sum_kernel, avx512::row_sum_kernel);
  if constexpr (sizeof(Real) == sizeof(float)) {
    return kernel.float32;
  } else {
    return kernel.float64;
  }
}

template const RowSumFunctions<float>& row_sum_functions(CpuLevel);
template const RowSumFunctions<double>& row_sum_functions(CpuLevel);

template <class Real>
PopularRows<Real>::PopularRows(const RowSumArguments<Real>& references, int64_t rows, CpuLevel level, int64_t threads,
                               const RunParts& run)
    : width_(references.width) {
  const int64_t* begin = references.begin;
  if (threads < 2 || rows == 0 || begin[rows] < kPopularReferences) return;
  std::vector<std::pair<int64_t, int64_t>> block;  // its references
  for (int64_t u = 0; u < rows; ++u) {
    if (begin[u + 1] - begin[u] < kPopularReferences) continue;
    row_.push_back(u);
    block_.push_back(static_cast<int64_t>(block.size()));
    for (int64_t m = begin[u]; m < begin[u + 1]; m += kRowSumBlock) {
      block.emplace_back(m, std::min(m + kRowSumBlock, begin[u + 1]));
    }
  }
  if (row_.empty()) return;
  const auto blocks = static_cast<int64_t>(block.size());
  sum_ = std::make_unique_for_overwrite<Real[]>(blocks * width_);
  const auto sum_references = row_sum_functions<Real>(level).sum_references;
  run_tasks((blocks + 7) / 8, threads, run, [&](int64_t, int64_t task) {
    for (int64_t b = 8 * task; b < std::min(8 * task + 8, blocks); ++b) {
      sum_references(references, block[b].first, block[b].second, sum_.get() + b * width_);
    }
  });
}

template <class Real>
const Real* PopularRows<Real>::block_sums(int64_t u) const {
  const auto found = std::lower_bound(row_.begin(), row_.end(), u);
  if (found == row_.end() || *found != u) return nullptr;
  return sum_.get() + block_[found - row_.begin()] * width_;
}

template class PopularRows<float>;
template class PopularRows<double>;

std::vector<int64_t> row_tasks(const int64_t* begin, int64_t rows, int64_t row_cost, int64_t threads) {
  const auto cost_before = [&](int64_t u) { return u * row_cost + begin[u]; };
  const int64_t total = cost_before(rows);
  // Fewer than about two thousand references are not worth a thread.
  const int64_t tasks = threads < 2 ? 1 : std::clamp<int64_t>(total / 2048, 1, threads * kTasksPerThread);
  std::vector<int64_t> result{0};
  for (int64_t task = 1; task < tasks; ++task) {
    int64_t low = result.back(), high = rows;
    while (low < high) {
      const int64_t middle = (low + high) / 2;
      if (cost_before(middle) < total * task / tasks) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    result.push_back(low);
  }
  result.push_back(rows);
  return result;
}

void run_tasks(int64_t tasks, int64_t threads, const RunParts& run,
               const std::function<void(int64_t thread, int64_t task)>& work) {
  std::atomic<int64_t> next{0};
  run(std::min(tasks, threads), [&](int64_t thread) {
    for (int64_t task = next++; task < tasks; task = next++) work(thread, task);
  });
}

}  // namespace loci
