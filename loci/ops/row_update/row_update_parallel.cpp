#include "loci/ops/row_update/row_update_parallel.h"

#include <memory>
#include <vector>

#include "loci/ops/row_sum/popular_rows.h"

namespace loci {
namespace {

constexpr int64_t kUpdateCost = 4;  // references that take as long as the row itself

template <class Real>
const RowUpdateFunctions<Real>& row_update_functions(CpuLevel level) {
  const RowUpdateKernel& kernel =
      at_level(level, base::row_update_kernel, avx2::row_update_kernel, avx512::row_update_kernel);
  if constexpr (sizeof(Real) == sizeof(float)) {
    return kernel.float32;
  } else {
    return kernel.float64;
  }
}

// A thread's workspace, allocated by the thread that uses it.
template <class Real>
struct UpdateWorkspace {
  explicit UpdateWorkspace(int64_t width)
      : scratch(std::make_unique_for_overwrite<Real[]>(kRowScratch * (width + 64))),
        bias(std::make_unique<RowBias<Real>>()) {}
  std::unique_ptr<Real[]> scratch;
  std::unique_ptr<RowBias<Real>> bias;
};

template <class Real>
void run_for_rows(typename RowUpdateFunctions<Real>::OfRows* function, const RowUpdateArguments<Real>& a,
                  CpuLevel level, int64_t threads, const RunParts& run) {
  std::unique_ptr<PopularRows<Real>> popular;
  std::vector<int64_t> no_references;
  const int64_t* begin;  // [U + 1]
  if (a.references != nullptr) {
    popular = std::make_unique<PopularRows<Real>>(*a.references, a.rows, level, threads, run);
    begin = a.references->begin;
  } else {
    no_references.assign(a.rows + 1, 0);
    begin = no_references.data();
  }
  const BlockSums block_sums = [](const void* context, int64_t u) -> const void* {
    return static_cast<const PopularRows<Real>*>(context)->block_sums(u);
  };
  const void* context = popular != nullptr && !popular->empty() ? popular.get() : nullptr;
  const std::vector<int64_t> task = row_tasks(begin, a.rows, kUpdateCost, threads);
  std::vector<std::unique_ptr<UpdateWorkspace<Real>>> workspace(threads);
  run_tasks(std::ssize(task) - 1, threads, run, [&](int64_t thread, int64_t t) {
    if (workspace[thread] == nullptr) workspace[thread] = std::make_unique<UpdateWorkspace<Real>>(a.width);
    const UpdateWorkspace<Real>& own = *workspace[thread];
    function(a, task[t], task[t + 1], block_sums, context, {own.scratch.get(), own.bias.get()});
  });
}

}  // namespace

template <class Real>
void update_rows(const RowUpdateArguments<Real>& a, CpuLevel level, int64_t threads, const RunParts& run) {
  run_for_rows(row_update_functions<Real>(level).update, a, level, threads, run);
}

template <class Real>
void square_sums(const RowUpdateArguments<Real>& a, CpuLevel level, int64_t threads, const RunParts& run) {
  run_for_rows(row_update_functions<Real>(level).square_sums, a, level, threads, run);
}

template void update_rows(const RowUpdateArguments<float>&, CpuLevel, int64_t, const RunParts&);
template void update_rows(const RowUpdateArguments<double>&, CpuLevel, int64_t, const RunParts&);
template void square_sums(const RowUpdateArguments<float>&, CpuLevel, int64_t, const RunParts&);
template void square_sums(const RowUpdateArguments<double>&, CpuLevel, int64_t, const RunParts&);

}  // namespace loci
