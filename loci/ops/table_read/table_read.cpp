#include "loci/ops/table_read/table_read.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/index_select.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include "loci/ops/gradient_only.h"
#include "loci/ops/table_read/table_read_definition.h"

// Legend: T tokens, K reads of a token, N rows, D width.

namespace loci {

using at::Tensor;
using c10::SymInt;
using OptionalTensor = std::optional<at::Tensor>;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

namespace {

void check_table_and_index(const char* who, const Tensor& table, const Tensor& index, const OptionalTensor& scale) {
  TORCH_CHECK(table.dim() == 2, who, ": table must have 2 dimensions [N, D], got ", table.dim());
  const auto type = table.scalar_type();
  TORCH_CHECK(
      type == at::kDouble || type == at::kFloat || type == at::kBFloat16 || type == at::kHalf || type == at::kChar, who,
      ": table must be float64, float32, bfloat16, float16 or int8, got ", type);
  TORCH_CHECK(scale.has_value() == (type == at::kChar), who, ": scale must be given for int8 rows alone, got ",
              scale.has_value() ? "one" : "none", " for a table of ", type);
  if (scale) {
    TORCH_CHECK(scale->scalar_type() == at::kFloat && scale->dim() == 1 && scale->sym_size(0) == table.sym_size(0), who,
                ": scale must be float32 [N] = [", table.sym_size(0), "], got ", scale->scalar_type(), " ",
                scale->sym_sizes());
    TORCH_CHECK(scale->device() == table.device(), who, ": scale must be on ", table.device(), " like table, got ",
                scale->device());
  }
  TORCH_CHECK(index.dim() == 2, who, ": index must have 2 dimensions [T, K], got ", index.dim());
  TORCH_CHECK(index.scalar_type() == at::kLong, who, ": index must be int64, got ", index.scalar_type());
  TORCH_CHECK(index.device() == table.device(), who, ": index must be on ", table.device(), " like table, got ",
              index.device());
}

void check_weight(const char* who, const Tensor& table, const Tensor& index, const Tensor& weight) {
  TORCH_CHECK(weight.sym_sizes() == index.sym_sizes(), who, ": weight must be [T, K] = ", index.sym_sizes(),
              " like index, got ", weight.sym_sizes());
  const auto type = table.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  TORCH_CHECK(weight.scalar_type() == type, who, ": weight must be ", type, " for a table of ", table.scalar_type(),
              ", got ", weight.scalar_type());
  TORCH_CHECK(weight.device() == table.device(), who, ": weight must be on ", table.device(), " like table, got ",
              weight.device());
}

void check_grad(const char* who, const Tensor& grad, const Tensor& table, const Tensor& index) {
  TORCH_CHECK(grad.dim() == 2 && grad.sym_size(0) == index.sym_size(0) && grad.sym_size(1) == table.sym_size(1), who,
              ": grad must be [T, D] = [", index.sym_size(0), ", ", table.sym_size(1), "], got ", grad.sym_sizes());
  const auto type = table.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  TORCH_CHECK(grad.scalar_type() == type, who, ": grad must be ", type, " for a table of ", table.scalar_type(),
              ", got ", grad.scalar_type());
  TORCH_CHECK(grad.device() == table.device(), who, ": grad must be on ", table.device(), " like table, got ",
              grad.device());
}

// On CPU always; elsewhere the device's own index_select checks.
void check_range(const char* who, const Tensor& table, const Tensor& index) {
  if (!index.is_cpu() || index.numel() == 0) return;
  const int64_t least = index.min().item<int64_t>(), most = index.max().item<int64_t>();
  if (least < 0) fail_index(who, table.size(0), least);
  if (most >= table.size(0)) fail_index(who, table.size(0), most);
}

}  // namespace

void fail_index(const char* who, int64_t rows, int64_t index) {
  TORCH_CHECK_INDEX(false, who, ": index must be within 0 .. ", rows - 1, ", got ", index);
  __builtin_unreachable();
}

void check_table_read(const Tensor& table, const Tensor& index, const Tensor& weight, const OptionalTensor& scale) {
  check_table_and_index("table_read", table, index, scale);
  check_weight("table_read", table, index, weight);
}

void check_table_read_backward_weight(const Tensor& grad, const Tensor& table, const Tensor& index,
                                      const OptionalTensor& scale) {
  check_table_and_index("table_read_backward_weight", table, index, scale);
  check_grad("table_read_backward_weight", grad, table, index);
}

void check_table_read_backward_table(const Tensor& grad, const Tensor& table, const Tensor& index,
                                     const Tensor& weight) {
  check_table_and_index("table_read_backward_table", table, index, std::nullopt);
  check_weight("table_read_backward_table", table, index, weight);
  check_grad("table_read_backward_table", grad, table, index);
}

namespace {

// On Meta, as compilation and export ask it, the definitions below give shapes alone.

// The rows of every token's read number r: [T, D] in `type`.
Tensor rows_of(const Tensor& table, const Tensor& index, int64_t r, at::ScalarType type) {
  return at::index_select(table, 0, index.select(1, r)).to(type);
}

// The scales of the same rows: [T, 1].
Tensor scales_of(const Tensor& scale, const Tensor& index, int64_t r) {
  return at::index_select(scale, 0, index.select(1, r)).unsqueeze(1);
}

}  // namespace

Tensor table_read_definition(const Tensor& table, const Tensor& index, const Tensor& weight,
                             const OptionalTensor& scale) {
  check_table_read(table, index, weight, scale);
  check_range("table_read", table, index);
  if (table.is_meta()) return at::empty_symint({index.sym_size(0), table.sym_size(1)}, weight.options());
  Tensor out = at::zeros({index.size(0), table.size(1)}, weight.options());  // [T, D]
  for (int64_t r = 0; r < index.size(1); ++r) {
    Tensor factor = weight.narrow(1, r, 1);  // [T, 1]
    if (scale) factor = factor * scales_of(*scale, index, r);
    out = out + rows_of(table, index, r, weight.scalar_type()) * factor;
  }
  return out;
}

Tensor table_read_backward_weight_definition(const Tensor& grad, const Tensor& table, const Tensor& index,
                                             const OptionalTensor& scale) {
  check_table_read_backward_weight(grad, table, index, scale);
  check_range("table_read_backward_weight", table, index);
  if (table.is_meta() || index.size(1) == 0) return at::empty_symint(index.sym_sizes(), grad.options());
  std::vector<Tensor> columns;  // K of [T]
  for (int64_t r = 0; r < index.size(1); ++r) {
    Tensor column = (grad * rows_of(table, index, r, grad.scalar_type())).sum(1, /*keepdim=*/true);
    if (scale) column = column * scales_of(*scale, index, r);
    columns.push_back(column.squeeze(1));
  }
  return at::stack(columns, 1);
}

namespace {

Tensor backward_table_definition(const Tensor& grad, const Tensor& table, const Tensor& index, const Tensor& weight) {
  check_table_read_backward_table(grad, table, index, weight);
  check_range("table_read_backward_table", table, index);
  if (table.is_meta()) return at::empty_symint(table.sym_sizes(), table.options());
  Tensor out = at::zeros(table.sizes(), grad.options());  // [N, D], summed in float32 at least
  for (int64_t r = 0; r < index.size(1); ++r) {
    out.index_add_(0, index.select(1, r), grad * weight.narrow(1, r, 1));
  }
  return out.to(table.scalar_type());
}

struct ReadGradient : torch::autograd::Function<ReadGradient> {
  static Tensor forward(AutogradContext* context, const Tensor& table, const Tensor& index, const Tensor& weight,
                        const OptionalTensor& scale) {
    at::AutoDispatchBelowADInplaceOrView below_autograd;
    context->save_for_backward({table, index, weight, scale.value_or(Tensor())});
    return table_read(table, index, weight, scale);
  }

  static variable_list backward(AutogradContext* context, const variable_list& grads) {
    const auto saved = context->get_saved_variables();
    const Tensor &table = saved[0], &index = saved[1], &weight = saved[2];
    const OptionalTensor scale = saved[3].defined() ? OptionalTensor(saved[3]) : std::nullopt;
    Tensor grad_table, grad_weight;
    if (context->needs_input_grad(0)) grad_table = table_read_backward_table(grads[0], table, index, weight);
    if (context->needs_input_grad(2)) grad_weight = table_read_backward_weight(grads[0], table, index, scale);
    return {grad_table, Tensor(), grad_weight, Tensor()};
  }
};

Tensor read_autograd_entry(const Tensor& table, const Tensor& index, const Tensor& weight,
                           const OptionalTensor& scale) {
  return ReadGradient::apply(table, index, weight, scale);
}

Tensor backward_weight_autograd_entry(const Tensor& grad, const Tensor& table, const Tensor& index,
                                      const OptionalTensor& scale) {
  return without_second_derivative("table_read", {grad, table}, [&]() -> variable_list {
    return {table_read_backward_weight(grad, table, index, scale)};
  })[0];
}

Tensor backward_table_autograd_entry(const Tensor& grad, const Tensor& table, const Tensor& index,
                                     const Tensor& weight) {
  return without_second_derivative("table_read", {grad, weight}, [&]() -> variable_list {
    return {table_read_backward_table(grad, table, index, weight)};
  })[0];
}

}  // namespace

Tensor table_read(const Tensor& table, const Tensor& index, const Tensor& weight, const OptionalTensor& scale) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("loci::table_read", "")
                             .typed<Tensor(const Tensor&, const Tensor&, const Tensor&, const OptionalTensor&)>();
  return op.call(table, index, weight, scale);
}

Tensor table_read_backward_weight(const Tensor& grad, const Tensor& table, const Tensor& index,
                                  const OptionalTensor& scale) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("loci::table_read_backward_weight", "")
                             .typed<Tensor(const Tensor&, const Tensor&, const Tensor&, const OptionalTensor&)>();
  return op.call(grad, table, index, scale);
}

Tensor table_read_backward_table(const Tensor& grad, const Tensor& table, const Tensor& index, const Tensor& weight) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("loci::table_read_backward_table", "")
                             .typed<Tensor(const Tensor&, const Tensor&, const Tensor&, const Tensor&)>();
  return op.call(grad, table, index, weight);
}

TORCH_LIBRARY_FRAGMENT(loci, m) {
  m.def("table_read(Tensor table, Tensor index, Tensor weight, Tensor? scale=None) -> Tensor",
        {at::Tag::pt2_compliant_tag});
  m.def("table_read_backward_weight(Tensor grad, Tensor table, Tensor index, Tensor? scale=None) -> Tensor",
        {at::Tag::pt2_compliant_tag});
  m.def("table_read_backward_table(Tensor grad, Tensor table, Tensor index, Tensor weight) -> Tensor",
        {at::Tag::pt2_compliant_tag});
}
TORCH_LIBRARY_IMPL(loci, CompositeExplicitAutograd, m) {
  m.impl("table_read", table_read_definition);
  m.impl("table_read_backward_weight", table_read_backward_weight_definition);
  m.impl("table_read_backward_table", backward_table_definition);
}
TORCH_LIBRARY_IMPL(loci, Autograd, m) {
  m.impl("table_read", read_autograd_entry);
  m.impl("table_read_backward_weight", backward_weight_autograd_entry);
  m.impl("table_read_backward_table", backward_table_autograd_entry);
}

}  // namespace loci
