// Legend: T tokens, K reads of a token, R rows of the store, D width.
#include "loci/table/row_reads.h"

#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/custom_function.h>

#include <memory>
#include <optional>
#include <utility>

#include "loci/ops/gradient_only.h"
#include "loci/ops/table_read/table_read.h"

namespace loci {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct StoreHandle : torch::CustomClassHolder {
  explicit StoreHandle(std::shared_ptr<RowStore> rows) : rows(std::move(rows)) {}
  std::shared_ptr<RowStore> rows;
};

enum class Access { read, project };

// read:    input weight [T, K], out[t] = sum over r of weight[t, r] * row[index[t, r]]
//          gradients: of weight, project of the output's gradient; of a row, weight[t, r] * gradient[t]
// project: input x [T, D], out[t, r] = <row[index[t, r]], x[t]>
//          gradients: of x, read with the output's gradient as weights; of a row, gradient[t, r] * x[t]
Tensor access_rows(Access access, const Tensor& values, const Tensor& index, const Tensor& input,
                   const std::optional<Tensor>& scale) {
  return access == Access::read ? table_read(values, index, input, scale)
                                : table_read_backward_weight(input, values, index, scale);
}

// `values` is an input, so that backward comes here even when `input` needs no gradient. Its gradient stays undefined:
// the row references are the gradient.
struct AccessFunction : torch::autograd::Function<AccessFunction> {
  static Tensor forward(AutogradContext* context, const Tensor& values, const Tensor& index, const Tensor& input,
                        const std::shared_ptr<RowStore>& rows, int64_t use, Access access) {
    const at::AutoDispatchBelowADInplaceOrView below;
    context->save_for_backward({values, index, input});
    context->saved_data["rows"] = c10::IValue::make_capsule(c10::make_intrusive<StoreHandle>(rows));
    context->saved_data["use"] = use;
    context->saved_data["is_read"] = access == Access::read;
    context->saved_data["pass"] = rows->references().next_pass(use);
    context->set_materialize_grads(false);
    return access_rows(access, values, index, input, rows->scale());
  }

  static variable_list backward(AutogradContext* context, variable_list output_gradient) {
    variable_list input_gradient(6);
    if (!output_gradient[0].defined()) return input_gradient;
    const Tensor grad = output_gradient[0].contiguous();  // [T, D] of a read, [T, K] of a projection
    const variable_list saved = context->get_saved_variables();
    const Tensor &values = saved[0], &index = saved[1], &input = saved[2];
    const auto handle = context->saved_data["rows"].toCapsule();
    RowStore& rows = *static_cast<StoreHandle&>(*handle).rows;
    const bool is_read = context->saved_data["is_read"].toBool();

    if (context->needs_input_grad(2)) {
      input_gradient[2] = without_second_derivative("table " + rows.name(), {grad, values}, [&]() -> variable_list {
        return {access_rows(is_read ? Access::project : Access::read, values, index, grad, rows.scale())};
      })[0];
    }
    if (!rows.frozen()) {
      const Tensor known = input.detach(), found = grad.detach();
      rows.references().add({index, is_read ? known : found, is_read ? found : known,
                             context->saved_data["pass"].toInt(), context->saved_data["use"].toInt()});
    }
    return input_gradient;
  }
};

Tensor access_with_gradient(Access access, RowStore& rows, const Tensor& index, const Tensor& input, int64_t use) {
  rows.references().check_use(use);
  if (!at::GradMode::is_enabled()) return access_rows(access, rows.values(), index, input, rows.scale());
  return AccessFunction::apply(rows.values(), index, input, rows.shared_from_this(), use, access);
}

}  // namespace

Tensor read_rows(RowStore& rows, const Tensor& index, const Tensor& weight, int64_t use) {
  return access_with_gradient(Access::read, rows, index, weight, use);
}

Tensor project_rows(RowStore& rows, const Tensor& index, const Tensor& x, int64_t use) {
  return access_with_gradient(Access::project, rows, index, x.contiguous(), use);
}

}  // namespace loci
