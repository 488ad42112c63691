#include "loci/ops/table_read/table_project.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/stack.h>

#include "loci/ops/operator.h"
#include "loci/ops/table_read/table_read.h"
#include "loci/ops/table_read/table_read_definition.h"

// Legend: T tokens, K rows of a token, N rows, D width.

namespace loci {

using at::Tensor;

void check_table_project(const Tensor& table, const Tensor& index, const Tensor& x,
                         const std::optional<Tensor>& scale) {
  check_table_and_index("table_project", table, index, scale);
  check_token_vectors("table_project", "x", x, table, index);
}

Tensor table_project_definition(const Tensor& table, const Tensor& index, const Tensor& x,
                                const std::optional<Tensor>& scale) {
  check_table_project(table, index, x, scale);
  check_index_range("table_project", table, index);
  if (table.is_meta() || index.size(1) == 0) return at::empty_symint(index.sym_sizes(), x.options());
  std::vector<Tensor> products;  // K of [T]
  for (int64_t r = 0; r < index.size(1); ++r) {
    Tensor product = (x * rows_of_read(table, index, r, x.scalar_type())).sum(1, /*keepdim=*/true);
    if (scale) product = product * scales_of_read(*scale, index, r);
    products.push_back(product.squeeze(1));
  }
  return at::stack(products, 1);
}

namespace {

// out = <row, x>: x gains grad * row, which is a table_read, and a row gains grad * x.
std::vector<Tensor> project_gradient(const BackwardPass& pass) {
  const Tensor &grad = pass.grad[0], &table = pass.saved[0], &index = pass.saved[1], &x = pass.saved[2];
  const std::optional<Tensor> scale = pass.saved[3].defined() ? std::optional(pass.saved[3]) : std::nullopt;
  return {pass.needed[0] ? table_read_backward_table(x, table, index, grad) : Tensor(),
          pass.needed[1] ? table_read(table, index, grad, scale) : Tensor()};
}

Tensor project_autograd_entry(const Tensor& table, const Tensor& index, const Tensor& x,
                              const std::optional<Tensor>& scale) {
  return once_differentiable<project_gradient>("table_project", {table, x}, [&] {
    return ForwardPass{{table_project(table, index, x, scale)}, {table, index, x, scale.value_or(Tensor())}};
  })[0];
}

}  // namespace

Tensor table_project(const Tensor& table, const Tensor& index, const Tensor& x, const std::optional<Tensor>& scale) {
  return call_operator<"loci::table_project", decltype(table_project)>(table, index, x, scale);
}

TORCH_LIBRARY_FRAGMENT(loci, m) {
  define_operator(m, "table_project(Tensor table, Tensor index, Tensor x, Tensor? scale=None) -> Tensor",
                  table_project_definition, project_autograd_entry);
}

}  // namespace loci
