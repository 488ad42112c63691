// Legend: T tokens, K reads of a token, N rows, D width, U distinct rows.
#include "loci/table/table.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/sparse_coo_tensor.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <utility>

#include "loci/base/check.h"
#include "loci/ops/table_read/table_project.h"
#include "loci/ops/table_read/table_read.h"

namespace loci {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct TableHandle : torch::CustomClassHolder {
  explicit TableHandle(TablePtr table) : table(std::move(table)) {}
  TablePtr table;
};

// `values` is an input, so that backward comes here even when `weight` needs no gradient. It gets none from here:
// references go to the table.
struct Read : torch::autograd::Function<Read> {
  static Tensor forward(AutogradContext* context, const Tensor& values, const Tensor& index, const Tensor& weight,
                        const TablePtr& table, int64_t pass, int64_t use) {
    const at::AutoDispatchBelowADInplaceOrView below;
    context->save_for_backward({values, index, weight});
    context->saved_data["table"] = c10::IValue::make_capsule(c10::make_intrusive<TableHandle>(table));
    context->saved_data["pass"] = pass;
    context->saved_data["use"] = use;
    context->set_materialize_grads(false);
    return table_read(values, index, weight);
  }

  static variable_list backward(AutogradContext* context, variable_list output_gradient) {
    variable_list input_gradient(6);
    const Tensor& grad = output_gradient[0];  // [T, D]
    if (!grad.defined()) return input_gradient;
    const variable_list saved = context->get_saved_variables();
    const Tensor& values = saved[0];
    const Tensor& index = saved[1];
    const Tensor& weight = saved[2];
    if (context->needs_input_grad(2)) input_gradient[2] = table_project(values, index, grad);

    const auto handle = context->saved_data["table"].toCapsule();
    static_cast<TableHandle&>(*handle).table->add_references({index, weight.detach(), grad.detach().contiguous(),
                                                              context->saved_data["pass"].toInt(),
                                                              context->saved_data["use"].toInt()});
    return input_gradient;
  }
};

}  // namespace

Table::Table(std::string name, int64_t rows, int64_t width)
    : name_(std::move(name)), rows_(rows), width_(width), changed_(std::max<int64_t>(rows, 0)) {
  if (rows < 1) fail(ExitCode::usage, "table " + name_, "rows must be at least 1", std::to_string(rows));
  if (width < 1) fail(ExitCode::usage, "table " + name_, "width must be at least 1", std::to_string(width));
}

int64_t Table::register_use() {
  reads_.push_back(0);
  return static_cast<int64_t>(reads_.size()) - 1;
}

Tensor Table::read(const Tensor& index, const Tensor& weight, int64_t use) {
  if (use < 0 || use >= static_cast<int64_t>(reads_.size())) {
    fail(ExitCode::bug, "table " + name_, "use must come from register_use", std::to_string(use));
  }
  if (mode_ == GradientMode::none || !at::GradMode::is_enabled()) return table_read(values(), index, weight, scale());
  return Read::apply(values(), index, weight, shared_from_this(), reads_[use]++, use);
}

void Table::set_gradient_mode(GradientMode mode) {
  if (scale() && mode != GradientMode::none) {
    fail(ExitCode::usage, "table " + name_, "gradient mode of int8 rows must be none", "another");
  }
  zero_gradient();
  mode_ = mode;
  values().set_requires_grad(mode != GradientMode::none);
}

void Table::set_trained_rows(const Tensor& mask) {
  TORCH_CHECK(!mask.defined() || (mask.scalar_type() == at::kBool && mask.sizes() == at::IntArrayRef{rows_}), "table ",
              name_, ": trained rows must be bool [", rows_, "], got ", mask.scalar_type(), " ", mask.sizes());
  const std::lock_guard lock(mutex_);
  trained_rows_ = mask.defined() ? mask.detach().clone() : mask;
}

void Table::add_references(RowReferences references) {
  const std::lock_guard lock(mutex_);
  if (trained_rows_.defined()) {  // a weight of exactly 0 is no touch
    const Tensor trained = trained_rows_.index_select(0, references.index.reshape(-1)).view_as(references.index);
    references.weight = references.weight.masked_fill(trained.logical_not(), 0);
  }
  if (mode_ == GradientMode::references) {
    references_.push_back(std::move(references));
  } else if (mode_ != GradientMode::none) {
    leave_gradient(std::move(references));
  }
}

void Table::leave_gradient(RowReferences read) {
  const Tensor before = values().grad();
  const bool ours =
      before.defined() && before.unsafeGetTensorImpl() == left_ && int64_t{before._version()} == left_version_;
  if (!ours) references_.clear();
  references_.push_back(std::move(read));

  const RowGradient sum = gradient();
  const Tensor value = sum.gradient.to(values().scalar_type());
  Tensor grad =
      mode_ == GradientMode::dense
          ? at::zeros({rows_, width_}, value.options()).index_copy_(0, sum.row, value)
          : at::sparse_coo_tensor(sum.row.unsqueeze(0), value, {rows_, width_}, value.options().layout(at::kSparse),
                                  /*is_coalesced=*/true);
  const bool add = before.defined() && !ours;
  values().mutable_grad() = add ? before + grad : grad;
  left_ = add ? nullptr : grad.unsafeGetTensorImpl();
  left_version_ = grad._version();
}

RowGradient Table::gradient() const {
  return sum_references(references_, width_);
}

void Table::compact() {
  if (references_.size() < 2 || mode_ != GradientMode::references) return;
  const RowGradient sum = gradient();
  // A reference per row, before every later one.
  references_ = {{sum.row.unsqueeze(1), at::ones({sum.row.size(0), 1}, sum.gradient.options()), sum.gradient,
                  /*pass=*/-1, /*use=*/-1}};
}

void Table::zero_gradient() {
  references_.clear();
  reads_.assign(reads_.size(), 0);
  if (values().defined()) values().mutable_grad().reset();
  left_ = nullptr;
}

}  // namespace loci
