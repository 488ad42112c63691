// Legend: M references, U distinct rows.
#include <ATen/Parallel.h>
#include <ATen/ops/from_blob.h>
#include <torch/library.h>

#include <algorithm>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "loci/ops/row_order/row_order_definition.h"

namespace loci {

using at::Tensor;

namespace {

constexpr int64_t kCheckGrain = int64_t{1} << 14;  // numbers whose check is worth a thread

}  // namespace

int64_t reference_threads(int64_t size) {
  return std::clamp<int64_t>(size / 4096, 1, at::get_num_threads());
}

RunParts framework_threads() {
  return [](int64_t parts, const std::function<void(int64_t)>& work) {
    at::parallel_for(0, parts, 1, [&](int64_t first, int64_t last) {
      for (int64_t part = first; part < last; ++part) work(part);
    });
  };
}

int64_t first_fall(const Tensor& x) {
  const int64_t* const value = x.const_data_ptr<int64_t>();
  const int64_t size = x.numel();
  const int64_t falls = at::parallel_reduce(
      0, std::max<int64_t>(size - 1, 0), kCheckGrain, int64_t{0},
      [value](int64_t first, int64_t last, int64_t count) {
        for (int64_t i = first; i < last; ++i) count += value[i] >= value[i + 1];
        return count;
      },
      std::plus<>());
  return falls == 0 ? -1 : std::adjacent_find(value, value + size, std::greater_equal<>()) - value;
}

int64_t first_outside(const Tensor& x, int64_t bound) {
  const int32_t* const value = x.const_data_ptr<int32_t>();
  const auto is_outside = [bound](int32_t i) { return i < 0 || i >= bound; };
  const int64_t outside = at::parallel_reduce(
      0, x.numel(), kCheckGrain, int64_t{0},
      [&](int64_t first, int64_t last, int64_t count) {
        for (int64_t i = first; i < last; ++i) count += is_outside(value[i]);
        return count;
      },
      std::plus<>());
  return outside == 0 ? -1 : std::find_if(value, value + x.numel(), is_outside) - value;
}

namespace {

// A tensor [size] that owns the memory.
template <class T>
Tensor owning_tensor(std::unique_ptr<T[]> memory, int64_t size) {
  T* const data = memory.release();
  return at::from_blob(
      data, {size}, [data](void*) { delete[] data; }, at::TensorOptions().dtype(c10::CppTypeToScalarType<T>::value));
}

template <class Real>
RowOrder row_order_of(at::TensorList index, at::TensorList weight) {
  std::vector<Tensor> kept;  // the lists point into these
  std::vector<ReferenceList<Real>> lists;
  int64_t tokens = 0, size = 0;
  for (size_t i = 0; i < index.size(); ++i) {
    const Tensor row = index[i].contiguous(), coefficient = weight[i].contiguous();
    lists.push_back(
        {row.const_data_ptr<int64_t>(), coefficient.const_data_ptr<Real>(), row.numel(), tokens, row.size(1)});
    tokens += row.size(0);
    size += row.numel();
    kept.insert(kept.end(), {row, coefficient});
  }
  SortedReferences<Real> found = sort_references<Real>(lists, reference_threads(size), framework_threads());
  TORCH_CHECK_INDEX(found.bad_row >= 0, "row_order: row must be at least 0, got ", found.bad_row);
  return {owning_tensor(std::move(found.row), found.rows), owning_tensor(std::move(found.begin), found.rows + 1),
          owning_tensor(std::move(found.source), found.size), owning_tensor(std::move(found.coefficient), found.size)};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> row_order_cpu(at::TensorList index, at::TensorList weight) {
  check_row_order(index, weight);
  const RowOrder order =
      weight[0].scalar_type() == at::kFloat ? row_order_of<float>(index, weight) : row_order_of<double>(index, weight);
  return {order.row, order.begin, order.source, order.coefficient};
}

TORCH_LIBRARY_IMPL(loci, CPU, m) {
  m.impl("row_order", row_order_cpu);
}

}  // namespace

}  // namespace loci
