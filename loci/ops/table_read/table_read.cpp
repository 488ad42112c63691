#include "loci/ops/table_read/table_read.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/index_select.h>
#include <ATen/ops/zeros.h>

#include "loci/ops/operator.h"
#include "loci/ops/table_read/table_project.h"
#include "loci/ops/table_read/table_read_definition.h"

// Legend: T tokens, K reads of a token, N rows, D width.

namespace loci {

using at::Tensor;

namespace {

at::ScalarType real_type_of(const Tensor& table) {
  return table.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
}

void check_type_and_device(const char* who, const char* name, const Tensor& x, const Tensor& table) {
  TORCH_CHECK(x.scalar_type() == real_type_of(table), who, ": ", name, " must be ", real_type_of(table),
              " for a table of ", table.scalar_type(), ", got ", x.scalar_type());
  TORCH_CHECK(x.device() == table.device(), who, ": ", name, " must be on ", table.device(), " like table, got ",
              x.device());
}

void check_weight(const char* who, const Tensor& table, const Tensor& index, const Tensor& weight) {
  TORCH_CHECK(weight.sym_sizes() == index.sym_sizes(), who, ": weight must be [T, K] = ", index.sym_sizes(),
              " like index, got ", weight.sym_sizes());
  check_type_and_device(who, "weight", weight, table);
}

}  // namespace

void check_table_and_index(const char* who, const Tensor& table, const Tensor& index,
                           const std::optional<Tensor>& scale) {
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

void check_token_vectors(const char* who, const char* name, const Tensor& x, const Tensor& table, const Tensor& index) {
  TORCH_CHECK(x.dim() == 2 && x.sym_size(0) == index.sym_size(0) && x.sym_size(1) == table.sym_size(1), who, ": ", name,
              " must be [T, D] = [", index.sym_size(0), ", ", table.sym_size(1), "], got ", x.sym_sizes());
  check_type_and_device(who, name, x, table);
}

void check_index_range(const char* who, const Tensor& table, const Tensor& index) {
  if (!index.is_cpu() || index.numel() == 0) return;
  const int64_t least = index.min().item<int64_t>(), most = index.max().item<int64_t>();
  if (least < 0) fail_index(who, table.size(0), least);
  if (most >= table.size(0)) fail_index(who, table.size(0), most);
}

void fail_index(const char* who, int64_t rows, int64_t index) {
  TORCH_CHECK_INDEX(false, who, ": index must be within 0 .. ", rows - 1, ", got ", index);
  __builtin_unreachable();
}

void check_table_read(const Tensor& table, const Tensor& index, const Tensor& weight,
                      const std::optional<Tensor>& scale) {
  check_table_and_index("table_read", table, index, scale);
  check_weight("table_read", table, index, weight);
}

Tensor rows_of_read(const Tensor& table, const Tensor& index, int64_t r, at::ScalarType type) {
  return at::index_select(table, 0, index.select(1, r)).to(type);
}

Tensor scales_of_read(const Tensor& scale, const Tensor& index, int64_t r) {
  return at::index_select(scale, 0, index.select(1, r)).unsqueeze(1);
}

// On Meta, as compilation and export ask it, the definitions give shapes alone.
Tensor table_read_definition(const Tensor& table, const Tensor& index, const Tensor& weight,
                             const std::optional<Tensor>& scale) {
  check_table_read(table, index, weight, scale);
  check_index_range("table_read", table, index);
  if (table.is_meta()) return at::empty_symint({index.sym_size(0), table.sym_size(1)}, weight.options());
  Tensor out = at::zeros({index.size(0), table.size(1)}, weight.options());  // [T, D]
  for (int64_t r = 0; r < index.size(1); ++r) {
    Tensor factor = weight.narrow(1, r, 1);  // [T, 1]
    if (scale) factor = factor * scales_of_read(*scale, index, r);
    out = out + rows_of_read(table, index, r, weight.scalar_type()) * factor;
  }
  return out;
}

namespace {

Tensor backward_table_definition(const Tensor& grad, const Tensor& table, const Tensor& index, const Tensor& weight) {
  constexpr const char* who = "table_read_backward_table";
  check_table_and_index(who, table, index, std::nullopt);
  check_weight(who, table, index, weight);
  check_token_vectors(who, "grad", grad, table, index);
  check_index_range(who, table, index);
  if (table.is_meta()) return at::empty_symint(table.sym_sizes(), table.options());
  Tensor out = at::zeros(table.sizes(), grad.options());  // [N, D], summed in float32 at least
  for (int64_t r = 0; r < index.size(1); ++r) {
    out.index_add_(0, index.select(1, r), grad * weight.narrow(1, r, 1));
  }
  return out.to(table.scalar_type());
}

std::vector<Tensor> read_gradient(const BackwardPass& pass) {
  const Tensor &grad = pass.grad[0], &table = pass.saved[0], &index = pass.saved[1], &weight = pass.saved[2];
  const std::optional<Tensor> scale = pass.saved[3].defined() ? std::optional(pass.saved[3]) : std::nullopt;
  return {pass.needed[0] ? table_read_backward_table(grad, table, index, weight) : Tensor(),
          pass.needed[1] ? table_project(table, index, grad, scale) : Tensor()};
}

Tensor read_autograd_entry(const Tensor& table, const Tensor& index, const Tensor& weight,
                           const std::optional<Tensor>& scale) {
  return once_differentiable<read_gradient>("table_read", {table, weight}, [&] {
    return ForwardPass{{table_read(table, index, weight, scale)}, {table, index, weight, scale.value_or(Tensor())}};
  })[0];
}

}  // namespace

Tensor table_read(const Tensor& table, const Tensor& index, const Tensor& weight, const std::optional<Tensor>& scale) {
  return call_operator<"loci::table_read", decltype(table_read)>(table, index, weight, scale);
}

Tensor table_read_backward_table(const Tensor& grad, const Tensor& table, const Tensor& index, const Tensor& weight) {
  return call_operator<"loci::table_read_backward_table", decltype(table_read_backward_table)>(grad, table, index,
                                                                                               weight);
}

TORCH_LIBRARY_FRAGMENT(loci, m) {
  define_operator(m, "table_read(Tensor table, Tensor index, Tensor weight, Tensor? scale=None) -> Tensor",
                  table_read_definition, read_autograd_entry);
  define_operator(m, "table_read_backward_table(Tensor grad, Tensor table, Tensor index, Tensor weight) -> Tensor",
                  backward_table_definition, not_differentiable());
}

}  // namespace loci
