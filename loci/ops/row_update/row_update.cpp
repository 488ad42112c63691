// Legend: N rows, D width, U distinct rows.
#include "loci/ops/row_update/row_update.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/pow.h>
#include <ATen/ops/where.h>

#include "loci/base/random.h"
#include "loci/ops/operator.h"
#include "loci/ops/row_order/row_order_definition.h"
#include "loci/ops/row_sum/row_sum_definition.h"
#include "loci/ops/row_update/row_update_definition.h"
#include "loci/ops/row_update/row_update_kernel.h"

namespace loci {

using at::Tensor;

namespace {

void check_row_state(const char* who, const char* name, const Tensor& state, at::IntArrayRef sizes,
                     at::ScalarType dtype) {
  TORCH_CHECK(state.defined(), who, ": ", name, " must be a tensor for this rule, got none");
  TORCH_CHECK(state.scalar_type() == dtype, who, ": ", name, " must be ", dtype, ", got ", state.scalar_type());
  TORCH_CHECK(state.sizes() == sizes, who, ": ", name, " must be ", sizes, ", got ", state.sizes());
  TORCH_CHECK(state.is_contiguous(), who, ": ", name, " must be contiguous, got strides ", state.strides());
}

// The dtype of gradient and state.
at::ScalarType real_of(const Tensor& table) {
  return table.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
}

bool has_master(const Tensor& table, const RowUpdate& update) {
  return table.scalar_type() == at::kBFloat16 && update.rounding == RowRounding::master;
}

void check_row_states(const char* who, const Tensor& table, const RowState& state, const RowUpdate& update) {
  const auto real = real_of(table);
  const int64_t rows = table.size(0);
  if (update.rule == RowRule::adam || update.rule == RowRule::adam_row_moment) {
    const bool small = state.moment1.defined() && state.moment1.scalar_type() == at::kBFloat16 && real == at::kFloat;
    const auto moments = small ? at::kBFloat16 : real;
    check_row_state(who, "moment1", state.moment1, table.sizes(), moments);
    if (update.rule == RowRule::adam) check_row_state(who, "moment2", state.moment2, table.sizes(), moments);
    check_row_state(who, "count", state.count, {rows}, at::kInt);
  }
  if (update.rule == RowRule::adam_row_moment || update.rule == RowRule::adagrad) {
    check_row_state(who, "moment2", state.moment2, {rows}, real);
  }
  if (has_master(table, update)) check_row_state(who, "master", state.master, table.sizes(), at::kFloat);
}

// Where the whole table has other columns than these.
void check_row_part(const char* who, const Tensor& table, const RowState& state, const RowUpdate& update,
                    const Tensor& row) {
  TORCH_CHECK(update.first_column >= 0 && update.whole_width >= 0, who,
              ": first_column and whole_width must be at least 0, got ", update.first_column, " and ",
              update.whole_width);
  if (!state.square_sum.defined()) return;
  TORCH_CHECK(state.square_sum.scalar_type() == at::kDouble && state.square_sum.sizes() == row.sizes(), who,
              ": square_sum must be float64 ", row.sizes(), ", got ", state.square_sum.scalar_type(), " ",
              state.square_sum.sizes());
  TORCH_CHECK(update.whole_width >= table.size(1), who, ": whole_width must be at least ", table.size(1), ", got ",
              update.whole_width);
}

// The ends of ascending rows bound all of them.
void check_row_indices(const char* who, const Tensor& row, int64_t rows) {
  if (row.size(0) == 0) return;
  const Tensor host = row.cpu().contiguous();
  const int64_t* r = host.const_data_ptr<int64_t>();
  const int64_t fall = first_fall(host);
  TORCH_CHECK_INDEX(fall < 0, who, ": row must be ascending and distinct, got ", r[fall + 1], " after ", r[fall]);
  const int64_t last = r[row.size(0) - 1];
  TORCH_CHECK_INDEX(r[0] >= 0 && last < rows, who, ": row must be within 0 .. ", rows - 1, ", got ",
                    r[0] < 0 ? r[0] : last);
}

void check_updated_rows(const char* who, const Tensor& table, const RowState& state, const RowUpdate& update,
                        const Tensor& row) {
  const auto dtype = table.scalar_type();
  TORCH_CHECK(dtype == at::kFloat || dtype == at::kBFloat16 || dtype == at::kDouble, who,
              ": table must be float32, bfloat16 or float64, got ", dtype);
  TORCH_CHECK(table.dim() == 2, who, ": table must be [N, D], got ", table.sizes());
  TORCH_CHECK(table.is_contiguous(), who, ": table must be contiguous, got strides ", table.strides());
  TORCH_CHECK(row.scalar_type() == at::kLong, who, ": row must be int64, got ", row.scalar_type());
  TORCH_CHECK(row.dim() == 1, who, ": row must be [U], got ", row.sizes());
  TORCH_CHECK(update.rule >= RowRule::adam && update.rule <= RowRule::sgd, who, ": rule must be within 0 .. 3, got ",
              static_cast<int>(update.rule));
  TORCH_CHECK(update.rounding >= RowRounding::stochastic && update.rounding <= RowRounding::master, who,
              ": rounding must be within 0 .. 2, got ", static_cast<int>(update.rounding));
  check_row_states(who, table, state, update);
  check_row_part(who, table, state, update, row);
  check_row_indices(who, row, table.size(0));
}

void check_row_gradient(const char* who, const char* name, const Tensor& gradient, int64_t rows, const Tensor& table) {
  const auto real = real_of(table);
  TORCH_CHECK(gradient.scalar_type() == real, who, ": ", name, " must be ", real, ", got ", gradient.scalar_type());
  TORCH_CHECK(gradient.dim() == 2 && gradient.size(0) == rows && gradient.size(1) == table.size(1), who, ": ", name,
              " must be [", rows, ", ", table.size(1), "], got ", gradient.sizes());
}

}  // namespace

void check_row_update(const Tensor& table, const RowState& state, const Tensor& row, const Tensor& gradient,
                      const RowUpdate& update) {
  check_updated_rows("row_update", table, state, update, row);
  check_row_gradient("row_update", "gradient", gradient, row.size(0), table);
}

void check_row_step(const Tensor& table, const RowState& state, const RowOrder& order, const Tensor& source,
                    const RowUpdate& update) {
  check_updated_rows("row_step", table, state, update, order.row);
  check_references("row_step", order, source);
  check_row_gradient("row_step", "source", source, source.size(0), table);
}

void check_row_square_sum(const Tensor& gradient) {
  TORCH_CHECK(gradient.scalar_type() == at::kFloat || gradient.scalar_type() == at::kDouble,
              "row_square_sum: gradient must be float32 or float64, got ", gradient.scalar_type());
  TORCH_CHECK(gradient.dim() == 2, "row_square_sum: gradient must be [U, D], got ", gradient.sizes());
}

void rounding_bits(uint64_t seed, int64_t step, int64_t row, int64_t first, int64_t width, uint16_t* bits) {
  const auto low = [](uint64_t x) { return static_cast<uint32_t>(x); };
  const auto high = [](uint64_t x) { return static_cast<uint32_t>(x >> 32); };
  for (int64_t at = 0; at < width;) {  // a block of Philox serves eight columns
    const int64_t of = (first + at) / 8;
    const auto block = philox({low(row), high(row), low(of), low(step)}, {low(seed), high(seed)});
    for (; at < width && (first + at) / 8 == of; ++at) {
      bits[at] = static_cast<uint16_t>(block[(first + at) % 8 / 2] >> (16 * ((first + at) % 2)));
    }
  }
}

namespace {

// Correctly rounded in float32 too: the framework's own square root is off by one bit there on some CPUs.
Tensor exact_square_root(const Tensor& x) {
  return x.to(at::kDouble).sqrt().to(x.scalar_type());
}

// [U, D] float32 -> bfloat16, up or down by chance.
Tensor rounded_by_chance(const Tensor& value, const Tensor& row, const RowUpdate& update, uint64_t seed) {
  const Tensor host = row.cpu().contiguous();
  Tensor bits = at::empty(value.sizes(), at::kShort);  // holds uint16
  for (int64_t u = 0; u < host.size(0); ++u) {
    rounding_bits(seed, update.step, update.first_row + host.const_data_ptr<int64_t>()[u], update.first_column,
                  value.size(1), static_cast<uint16_t*>(bits.mutable_data_ptr()) + u * value.size(1));
  }
  // Added to the 16 bits that are cut off: the probability of a carry is their share of a unit of the last place.
  const Tensor lifted = value.view(at::kInt) + bits.to(value.device()).to(at::kInt).bitwise_and(0xffff);
  return at::where(value.isfinite(), lifted.bitwise_and(static_cast<int32_t>(0xffff0000)).view(at::kFloat), value)
      .to(at::kBFloat16);
}

// mean(g^2) of each whole row.
Tensor mean_square(const RowState& state, const RowUpdate& update, const Tensor& g) {
  if (!state.square_sum.defined()) return g.to(at::kDouble).square().mean(1).to(g.scalar_type());
  return (state.square_sum * update.factor * update.factor / update.whole_width).to(g.scalar_type());
}

// NaN for an infinite second moment.
Tensor denominator_of(const Tensor& moment2, const Tensor& root, double epsilon) {
  return exact_square_root(moment2) * root + epsilon + (moment2 - moment2);
}

// What V loses by Adam; writes m, v and t.
Tensor adam_step(const RowState& state, const RowUpdate& update, const Tensor& row, const Tensor& g) {
  const auto real = g.scalar_type();
  const auto moment_of = [&](const Tensor& moments) { return moments.index_select(0, row).to(real); };
  const auto write_moment = [&](const Tensor& moments, const Tensor& moment) {
    const bool small = moments.scalar_type() != real;
    moments.index_copy_(0, row, small ? rounded_by_chance(moment, row, update, update.seed ^ kMomentStream) : moment);
  };
  const Tensor count = state.count.index_select(0, row) + 1;
  state.count.index_copy_(0, row, count);
  const Tensor t = count.to(at::kDouble);
  const Tensor rate = (update.rate / (1 - at::pow(update.beta1, t))).to(real).unsqueeze(1);
  const Tensor root = (1 / (1 - at::pow(update.beta2, t)).sqrt()).to(real);  // [U]

  const bool of_columns = update.rule == RowRule::adam;
  const Tensor moment1 = moment_of(state.moment1) * update.beta1 + g * (1 - update.beta1);
  const Tensor square = of_columns ? g * g : mean_square(state, update, g);
  const Tensor moment2 = moment_of(state.moment2) * update.beta2 + square * (1 - update.beta2);
  write_moment(state.moment1, moment1);
  write_moment(state.moment2, moment2);
  if (of_columns) return moment1 * rate / denominator_of(moment2, root.unsqueeze(1), update.epsilon);
  return moment1 * rate / denominator_of(moment2, root, update.epsilon).unsqueeze(1);
}

Tensor adagrad_step(const RowState& state, const RowUpdate& update, const Tensor& row, const Tensor& g) {
  const Tensor moment2 = state.moment2.index_select(0, row) + mean_square(state, update, g);
  state.moment2.index_copy_(0, row, moment2);
  return g * update.rate / denominator_of(moment2, at::ones_like(moment2), update.epsilon).unsqueeze(1);
}

// The rows in `real`: from the master, unless a row was written from outside since.
Tensor stored_rows(const Tensor& table, const RowState& state, const RowUpdate& update, const Tensor& row,
                   at::ScalarType real) {
  const Tensor value = table.index_select(0, row).to(real);
  if (!has_master(table, update)) return value;
  const Tensor kept = state.master.index_select(0, row);
  return at::where(kept.to(at::kBFloat16).to(real).eq(value), kept, value);
}

void store_rows(const Tensor& table, const RowState& state, const RowUpdate& update, const Tensor& row,
                const Tensor& value) {
  if (has_master(table, update)) state.master.index_copy_(0, row, value);
  const bool by_chance = table.scalar_type() == at::kBFloat16 && update.rounding == RowRounding::stochastic;
  table.index_copy_(0, row,
                    by_chance ? rounded_by_chance(value, row, update, update.seed) : value.to(table.scalar_type()));
}

}  // namespace

void row_update_definition(const Tensor& table, const RowState& state, const Tensor& row, const Tensor& gradient,
                           const RowUpdate& update) {
  check_row_update(table, state, row, gradient, update);
  if (gradient.numel() == 0) return;
  const Tensor g = gradient * update.factor;
  const Tensor value =
      stored_rows(table, state, update, row, g.scalar_type()) * (1 - update.rate * update.weight_decay);
  Tensor step;
  switch (update.rule) {
    case RowRule::sgd:
      step = g * update.rate;
      break;
    case RowRule::adagrad:
      step = adagrad_step(state, update, row, g);
      break;
    case RowRule::adam:
    case RowRule::adam_row_moment:
      step = adam_step(state, update, row, g);
      break;
  }
  store_rows(table, state, update, row, value - step);
}

Tensor row_step_definition(const Tensor& table, const RowState& state, const RowOrder& order, const Tensor& source,
                           const RowUpdate& update) {
  check_row_step(table, state, order, source, update);
  const Tensor gradient = row_sum_definition(order, source);
  row_update_definition(table, state, order.row, gradient, update);
  return row_square_sum_definition(gradient);
}

Tensor row_square_sum_definition(const Tensor& gradient) {
  check_row_square_sum(gradient);
  return gradient.to(at::kDouble).square().sum(1);
}

namespace {

Tensor order_square_sum_definition(const Tensor& row, const Tensor& begin, const Tensor& source_index,
                                   const Tensor& coefficient, const Tensor& source) {
  return row_square_sum_definition(row_sum_definition({row, begin, source_index, coefficient}, source));
}

// On Meta, for compilation and export.
void row_update_on_meta(const Tensor&, const RowState&, const Tensor&, const Tensor&, const RowUpdate&) {}
Tensor row_step_on_meta(const Tensor&, const RowState&, const RowOrder& order, const Tensor& source, const RowUpdate&) {
  return at::empty_symint({order.row.sym_size(0)}, source.options().dtype(at::kDouble));
}
Tensor order_square_sum_on_meta(const Tensor& row, const Tensor&, const Tensor&, const Tensor&, const Tensor& source) {
  return at::empty_symint({row.sym_size(0)}, source.options().dtype(at::kDouble));
}

// An optimiser's step has no gradient, and its table is a leaf that requires one: autograd lets it pass.
TORCH_LIBRARY_FRAGMENT(loci, m) {
  define_operator(
      m,
      "row_update_(Tensor(a!) table, Tensor(b!)? moment1, Tensor(c!)? moment2, Tensor(d!)? count, Tensor(e!)? master, "
      "Tensor row, Tensor gradient, int rule, int rounding, float rate, float beta1, float beta2, float epsilon, "
      "float weight_decay, float factor, int seed, int step, int first_row=0, int first_column=0, int whole_width=0, "
      "Tensor? square_sum=None) -> ()",
      row_update_operator<row_update_definition>, torch::CppFunction::makeFallthrough());
  define_operator(
      m,
      "row_step_(Tensor(a!) table, Tensor(b!)? moment1, Tensor(c!)? moment2, Tensor(d!)? count, Tensor(e!)? master, "
      "Tensor row, Tensor begin, Tensor source_index, Tensor coefficient, Tensor source, int rule, int rounding, "
      "float rate, float beta1, float beta2, float epsilon, float weight_decay, float factor, int seed, int step, "
      "int first_row=0, int first_column=0, int whole_width=0, Tensor? square_sum=None) -> Tensor",
      row_step_operator<row_step_definition>, torch::CppFunction::makeFallthrough());
  define_operator(m, "row_square_sum(Tensor gradient) -> Tensor", row_square_sum_definition, not_differentiable());
  define_operator(
      m,
      "row_square_sum_sorted(Tensor row, Tensor begin, Tensor source_index, Tensor coefficient, Tensor source) -> "
      "Tensor",
      order_square_sum_definition, not_differentiable());
}

TORCH_LIBRARY_IMPL(loci, Meta, m) {
  m.impl("row_update_", row_update_operator<row_update_on_meta>);
  m.impl("row_step_", row_step_operator<row_step_on_meta>);
  m.impl("row_square_sum_sorted", order_square_sum_on_meta);
}
TORCH_LIBRARY_IMPL(loci, ADInplaceOrView, m) {
  m.impl("row_update_", moves_versions());
  m.impl("row_step_", moves_versions());
}

template <OperatorName kName, class Result, class... Given>
Result call_row_operator(const Tensor& table, const RowState& state, const RowUpdate& update, const Given&... given) {
  const auto optional = [](const Tensor& t) { return t.defined() ? std::optional(t) : std::nullopt; };
  return call_operator<kName, RowOperatorSignature<Result, Given...>>(
      table, optional(state.moment1), optional(state.moment2), optional(state.count), optional(state.master), given...,
      static_cast<int64_t>(update.rule), static_cast<int64_t>(update.rounding), update.rate, update.beta1, update.beta2,
      update.epsilon, update.weight_decay, update.factor, static_cast<int64_t>(update.seed), update.step,
      update.first_row, update.first_column, update.whole_width, optional(state.square_sum));
}

}  // namespace

void row_update(const Tensor& table, const RowState& state, const Tensor& row, const Tensor& gradient,
                const RowUpdate& update) {
  call_row_operator<"loci::row_update_", void>(table, state, update, row, gradient);
}

Tensor row_step(const Tensor& table, const RowState& state, const RowOrder& order, const Tensor& source,
                const RowUpdate& update) {
  return call_row_operator<"loci::row_step_", Tensor>(table, state, update, order.row, order.begin, order.source,
                                                      order.coefficient, source);
}

Tensor row_square_sum(const Tensor& gradient) {
  return call_operator<"loci::row_square_sum", Tensor(const Tensor&)>(gradient);
}

Tensor row_square_sum(const RowOrder& order, const Tensor& source) {
  return call_operator<"loci::row_square_sum_sorted", decltype(order_square_sum_definition)>(
      order.row, order.begin, order.source, order.coefficient, source);
}

}  // namespace loci
