#include "loci/ops/row_update/row_update_parallel.h"

#include <memory>
#include <vector>

#include "loci/ops/row_sum/popular_rows.h"

namespace loci {
namespace {

constexpr int64_t kRowCost = 4;  // references that take as long as the row itself

template <class Real>
using Function = void (*)(const RowUpdateArguments<Real>&, int64_t, int64_t, BlockSums, const void*,
                          const RowWorkspace<Real>&);

// A thread's memory, made by the thread that uses it.
template <class Real>
struct Memory {
  explicit Memory(int64_t width)
      : scratch(std::make_unique_for_overwrite<Real[]>(kRowScratch * (width + 64))),
        bias(std::make_unique<RowBias<Real>>()) {}
  std::unique_ptr<Real[]> scratch;
  std::unique_ptr<RowBias<Real>> bias;
};

template <class Real>
void run_rows(Function<Real> function, const RowUpdateArguments<Real>& a, CpuLevel level, int64_t threads,
              const RunParts& run) {
  std::unique_ptr<PopularRows<Real>> popular;
  std::vector<int64_t> begin;  // [U + 1] references, or one for each row
  if (a.gradient == nullptr) {
    popular = std::make_unique<PopularRows<Real>>(a.references, a.rows, level, threads, run);
  } else {
    begin.assign(a.rows + 1, 0);
  }
  const BlockSums block_sums = [](const void* context, int64_t u) -> const void* {
    return static_cast<const PopularRows<Real>*>(context)->block_sums(u);
  };
  const void* context = popular != nullptr && !popular->empty() ? popular.get() : nullptr;
  const std::vector<int64_t> task =
      row_tasks(a.gradient == nullptr ? a.references.begin : begin.data(), a.rows, kRowCost, threads);
  std::vector<std::unique_ptr<Memory<Real>>> memory(threads);
  run_tasks(std::ssize(task) - 1, threads, run, [&](int64_t thread, int64_t t) {
    if (memory[thread] == nullptr) memory[thread] = std::make_unique<Memory<Real>>(a.width);
    function(a, task[t], task[t + 1], block_sums, context, {memory[thread]->scratch.get(), memory[thread]->bias.get()});
  });
}

}  // namespace

template <class Real>
void update_rows(const RowUpdateArguments<Real>& a, CpuLevel level, int64_t threads, const RunParts& run) {
  const auto function = at_level<Function<Real>>(level, base::update_rows, avx2::update_rows, avx512::update_rows);
  run_rows<Real>(function, a, level, threads, run);
}

template <class Real>
void square_sums(const RowUpdateArguments<Real>& a, CpuLevel level, int64_t threads, const RunParts& run) {
  const auto function = at_level<Function<Real>>(level, base::square_sums, avx2::square_sums, avx512::square_sums);
  run_rows<Real>(function, a, level, threads, run);
}

template void update_rows(const RowUpdateArguments<float>&, CpuLevel, int64_t, const RunParts&);
template void update_rows(const RowUpdateArguments<double>&, CpuLevel, int64_t, const RunParts&);
template void square_sums(const RowUpdateArguments<float>&, CpuLevel, int64_t, const RunParts&);
template void square_sums(const RowUpdateArguments<double>&, CpuLevel, int64_t, const RunParts&);

}  // namespace loci
