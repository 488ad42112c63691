#include "loci/nn/memory/peer_memory.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/gelu.h>
#include <ATen/ops/relu.h>
#include <torch/csrc/autograd/custom_function.h>

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

// h[t, r] = <table[index[t, r]], x[t]>. With e the gradient of h, a row's gradient gains e * x: a row reference whose
// source is the input. `values` is an input, so that backward comes here even when x needs no gradient.
struct Project : torch::autograd::Function<Project> {
  static Tensor forward(AutogradContext* context, const Tensor& values, const Tensor& x, const Tensor& index,
                        const TablePtr& table, int64_t pass, int64_t use) {
    context->save_for_backward({values, x, index});
    context->saved_data["table"] = c10::IValue::make_capsule(c10::make_intrusive<TableHandle>(table));
    context->saved_data["pass"] = pass;
    context->saved_data["use"] = use;
    return table_project(values, index, x);
  }

  static variable_list backward(AutogradContext* context, variable_list output_gradient) {
    variable_list input_gradient(6);
    const variable_list saved = context->get_saved_variables();
    const Tensor &values = saved[0], &x = saved[1], &index = saved[2];
    const Tensor e = output_gradient[0].contiguous();  // [T, K]
    if (context->needs_input_grad(1)) input_gradient[1] = table_read(values, index, e);
    const auto handle = context->saved_data["table"].toCapsule();
    static_cast<TableHandle&>(*handle).table->add_references(
        {index, e.detach(), x.detach(), context->saved_data["pass"].toInt(), context->saved_data["use"].toInt()});
    return input_gradient;
  }
};

}  // namespace

PeerMemory::PeerMemory(const std::string& name, ProductKeyMemoryOptions options, TablePtr down, TablePtr up,
                       uint64_t seed, PeerActivation activation)
    : ProductKeyMemory(name, options, std::move(up), seed), down_(std::move(down)), activation_(activation) {
  const auto refuse = [](const std::string& expected, const std::string& got) {
    fail(ExitCode::usage, "PeerMemory", expected, got);
  };
  if (!down_) refuse("down must be given", "none");
  if (down_->rows() != table()->rows()) {
    refuse(fmt::format("down must have {} rows like up", table()->rows()), std::to_string(down_->rows()));
  }
  if (down_->width() != options.width) {
    refuse(fmt::format("down must have the layer's width {}", options.width), std::to_string(down_->width()));
  }
  down_use_ = down_->register_use();
}

Tensor PeerMemory::read(const Tensor& x, const Tensor& index, const Tensor& weight) {
  const Tensor exact = x.to(weight.scalar_type()).contiguous();
  const Tensor& values = down_->values();
  const bool plain = down_->gradient_mode() == GradientMode::none || !at::GradMode::is_enabled();
  const Tensor h = plain ? table_project(values, index, exact, down_->scale())
                         : Project::apply(values, exact, index, down_, reads_++, down_use_);  // [T, H * K]
  const Tensor active = activation_ == PeerActivation::gelu ? at::gelu(h) : at::relu(h);
  return ProductKeyMemory::read(x, index, weight * active);
}

}  // namespace loci
