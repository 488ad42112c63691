// Legend: T tokens, K reads of a token, R rows of the store, D width.
#include "loci/table/row_reads.h"

#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "loci/ops/operator.h"
#include "loci/ops/table_read/table_project.h"
#include "loci/ops/table_read/table_read.h"

namespace loci {

using at::Tensor;

// read:    input weight [T, K], out[t] = sum over r of weight[t, r] * row[index[t, r]]
//          gradients: of weight, project of the output's gradient; of a row, weight[t, r] * gradient[t]
// project: input x [T, D], out[t, r] = <row[index[t, r]], x[t]>
//          gradients: of x, read with the output's gradient as weights; of a row, gradient[t, r] * x[t]
Tensor access_rows(RowAccess access, const Tensor& values, const Tensor& index, const Tensor& input,
                   const std::optional<Tensor>& scale) {
  return access == RowAccess::read ? table_read(values, index, input, scale)
                                   : table_project(values, index, input, scale);
}

namespace {

struct StoreHandle : torch::CustomClassHolder {
  explicit StoreHandle(std::shared_ptr<RowStore> rows) : rows(std::move(rows)) {}
  std::shared_ptr<RowStore> rows;
};

// The gradient of `values` stays undefined: the row references are the gradient.
template <RowAccess kAccess>
std::vector<Tensor> access_gradient(const BackwardPass& pass) {
  constexpr bool kRead = kAccess == RowAccess::read;
  const Tensor &values = pass.saved[0], &index = pass.saved[1], input = pass.saved[2].detach();
  const Tensor grad = pass.grad[0].detach().contiguous();  // [T, D] of a read, [T, K] of a projection
  const auto handle = pass.constants[0].toCapsule();
  RowStore& rows = *static_cast<StoreHandle&>(*handle).rows;
  if (!rows.frozen()) {
    rows.references().add(
        {index, kRead ? input : grad, kRead ? grad : input, pass.constants[1].toInt(), pass.constants[2].toInt()});
  }
  if (!pass.needed[1]) return {Tensor(), Tensor()};
  return {Tensor(), access_rows(kRead ? RowAccess::project : RowAccess::read, values, index, grad, rows.scale())};
}

// `values` is an input, so that backward comes here even when `input` needs no gradient.
template <RowAccess kAccess>
Tensor access_with_gradient(const char* who, RowStore& rows, const Tensor& index, const Tensor& input, int64_t use) {
  rows.references().check_use(use);
  return once_differentiable<access_gradient<kAccess>>(who, {rows.values(), input}, [&] {
    const Tensor out = access_rows(kAccess, rows.values(), index, input, rows.scale());
    const auto handle = c10::make_intrusive<StoreHandle>(rows.shared_from_this());
    return ForwardPass{{out},
                       {rows.values(), index, input},
                       {c10::IValue::make_capsule(handle), rows.references().next_pass(use), use}};
  })[0];
}

}  // namespace

Tensor read_rows(RowStore& rows, const Tensor& index, const Tensor& weight, int64_t use) {
  return access_with_gradient<RowAccess::read>("Table::read", rows, index, weight, use);
}

Tensor project_rows(RowStore& rows, const Tensor& index, const Tensor& x, int64_t use) {
  return access_with_gradient<RowAccess::project>("Table::project", rows, index, x.contiguous(), use);
}

}  // namespace loci
