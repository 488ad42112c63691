// Legend: N rows, D width, U distinct rows.
#include "loci/ops/row_update/row_update.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/pow.h>
#include <ATen/ops/where.h>
#include <torch/library.h>

#include "loci/base/random.h"
#include "loci/ops/row_sum/row_sum_definition.h"
#include "loci/ops/row_update/row_update_definition.h"

namespace loci {

using at::Tensor;

namespace {

void check_state(const char* who, const char* name, const Tensor& state, at::IntArrayRef sizes, at::ScalarType dtype) {
  TORCH_CHECK(state.defined(), who, ": ", name, " must be a tensor for this rule, got none");
  TORCH_CHECK(state.scalar_type() == dtype, who, ": ", name, " must be ", dtype, ", got ", state.scalar_type());
  TORCH_CHECK(state.sizes() == sizes, who, ": ", name, " must be ", sizes, ", got ", state.sizes());
  TORCH_CHECK(state.is_contiguous(), who, ": ", name, " must be contiguous, got strides ", state.strides());
}

bool counts(RowRule rule) {
  return rule == RowRule::adam || rule == RowRule::adam_row_moment;
}

}  // namespace

void check_row_update(const char* who, const Tensor& table, const RowState& state, const Tensor& row,
                      const RowUpdate& update) {
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

  const auto real = dtype == at::kDouble ? at::kDouble : at::kFloat;
  const int64_t rows = table.size(0);
  if (counts(update.rule)) {
    const bool small = state.moment1.defined() && state.moment1.scalar_type() == at::kBFloat16 && real == at::kFloat;
    const auto moments = small ? at::kBFloat16 : real;
    check_state(who, "moment1", state.moment1, table.sizes(), moments);
    if (update.rule == RowRule::adam) check_state(who, "moment2", state.moment2, table.sizes(), moments);
    check_state(who, "count", state.count, {rows}, at::kInt);
  }
  if (update.rule == RowRule::adam_row_moment || update.rule == RowRule::adagrad) {
    check_state(who, "moment2", state.moment2, {rows}, real);
  }
  if (dtype == at::kBFloat16 && update.rounding == RowRounding::master) {
    check_state(who, "master", state.master, table.sizes(), at::kFloat);
  }
  if (row.size(0) == 0) return;
  const Tensor host = row.cpu().contiguous();
  const int64_t* r = host.const_data_ptr<int64_t>();
  for (int64_t u = 0; u < host.size(0); ++u) {
    TORCH_CHECK_INDEX(r[u] >= 0 && r[u] < rows, who, ": row must be within 0 .. ", rows - 1, ", got ", r[u]);
    TORCH_CHECK_INDEX(u == 0 || r[u - 1] < r[u], who, ": row must be ascending and distinct, got ", r[u], " after ",
                      u == 0 ? 0 : r[u - 1]);
  }
}

namespace {

void check_gradient(const char* who, const char* name, const Tensor& gradient, int64_t rows, const Tensor& table) {
  const auto real = table.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  TORCH_CHECK(gradient.scalar_type() == real, who, ": ", name, " must be ", real, ", got ", gradient.scalar_type());
  TORCH_CHECK(gradient.dim() == 2 && gradient.size(0) == rows && gradient.size(1) == table.size(1), who, ": ", name,
              " must be [", rows, ", ", table.size(1), "], got ", gradient.sizes());
}

}  // namespace

void check_row_update(const Tensor& table, const RowState& state, const Tensor& row, const Tensor& gradient,
                      const RowUpdate& update) {
  check_row_update("row_update", table, state, row, update);
  check_gradient("row_update", "gradient", gradient, row.size(0), table);
}

void check_row_step(const Tensor& table, const RowState& state, const RowOrder& order, const Tensor& source,
                    const RowUpdate& update) {
  check_row_update("row_step", table, state, order.row, update);
  check_references("row_step", order, source);
  check_gradient("row_step", "source", source, source.size(0), table);
}

void rounding_bits(uint64_t seed, int64_t step, int64_t row, int64_t width, uint16_t* bits) {
  const auto low = [](uint64_t x) { return static_cast<uint32_t>(x); };
  const auto high = [](uint64_t x) { return static_cast<uint32_t>(x >> 32); };
  for (int64_t column = 0; column < width; column += 8) {  // a block of Philox serves eight columns
    const auto block = philox({low(row), high(row), low(column / 8), low(step)}, {low(seed), high(seed)});
    for (int64_t c = column; c < width && c < column + 8; ++c) {
      bits[c] = static_cast<uint16_t>(block[(c - column) / 2] >> (16 * (c % 2)));
    }
  }
}

namespace {

// Rounded correctly in float32: there the framework's own square root is off by a bit on some CPUs.
Tensor square_root(const Tensor& x) {
  return x.to(at::kDouble).sqrt().to(x.scalar_type());
}

// [U, D] float32 -> bfloat16, up or down by chance.
Tensor rounded(const Tensor& value, const Tensor& row, uint64_t seed, int64_t step) {
  const Tensor host = row.cpu().contiguous();
  Tensor bits = at::empty(value.sizes(), at::kShort);  // unsigned in truth
  for (int64_t u = 0; u < host.size(0); ++u) {
    rounding_bits(seed, step, host.const_data_ptr<int64_t>()[u], value.size(1),
                  static_cast<uint16_t*>(bits.mutable_data_ptr()) + u * value.size(1));
  }
  // Added below the 16 bits that stay: the carry rounds the magnitude up with the probability of the rest.
  const Tensor lifted = value.view(at::kInt) + bits.to(value.device()).to(at::kInt).bitwise_and(0xffff);
  return at::where(value.isfinite(), lifted.bitwise_and(static_cast<int32_t>(0xffff0000)).view(at::kFloat), value)
      .to(at::kBFloat16);
}

}  // namespace

void row_update_definition(const Tensor& table, const RowState& state, const Tensor& row, const Tensor& gradient,
                           const RowUpdate& update) {
  check_row_update(table, state, row, gradient, update);
  const auto real = gradient.scalar_type();
  const bool master = table.scalar_type() == at::kBFloat16 && update.rounding == RowRounding::master;
  const auto of_rows = [&](const Tensor& t) { return t.index_select(0, row); };

  const Tensor g = gradient * update.factor;
  Tensor value = of_rows(table).to(real);
  if (master) {
    const Tensor kept = of_rows(state.master);
    value = at::where(kept.to(at::kBFloat16).to(real).eq(value), kept, value);
  }
  value = value * (1 - update.rate * update.weight_decay);

  Tensor step;  // what V loses
  if (update.rule == RowRule::sgd) {
    step = g * update.rate;
  } else if (update.rule == RowRule::adagrad) {
    const Tensor moment2 = of_rows(state.moment2) + g.to(at::kDouble).square().mean(1).to(real);
    state.moment2.index_copy_(0, row, moment2);
    step = g * update.rate / (square_root(moment2) + update.epsilon).unsqueeze(1);
  } else {
    const Tensor count = of_rows(state.count) + 1;
    state.count.index_copy_(0, row, count);
    const Tensor t = count.to(at::kDouble);
    const Tensor rate = (update.rate / (1 - at::pow(update.beta1, t))).to(real).unsqueeze(1);
    Tensor root = (1 / (1 - at::pow(update.beta2, t)).sqrt()).to(real);
    const Tensor moment1 = of_rows(state.moment1).to(real) * update.beta1 + g * (1 - update.beta1);
    const auto keep = [&](const Tensor& state_of, const Tensor& moment) {
      const bool small = state_of.scalar_type() != real;
      state_of.index_copy_(0, row, small ? rounded(moment, row, moment_seed(update.seed), update.step) : moment);
    };
    keep(state.moment1, moment1);
    Tensor square;
    if (update.rule == RowRule::adam) {
      square = g * g;
      root = root.unsqueeze(1);
    } else {
      square = g.to(at::kDouble).square().mean(1).to(real);
    }
    const Tensor moment2 = of_rows(state.moment2).to(real) * update.beta2 + square * (1 - update.beta2);
    keep(state.moment2, moment2);
    Tensor denominator = square_root(moment2) * root + update.epsilon;
    if (update.rule == RowRule::adam_row_moment) denominator = denominator.unsqueeze(1);
    step = moment1 * rate / denominator;
  }
  value = value - step;
  if (master) state.master.index_copy_(0, row, value);
  if (table.scalar_type() == at::kBFloat16) {
    value = update.rounding == RowRounding::stochastic ? rounded(value, row, update.seed, update.step)
                                                       : value.to(at::kBFloat16);
  }
  table.index_copy_(0, row, value);
}

Tensor row_step_definition(const Tensor& table, const RowState& state, const RowOrder& order, const Tensor& source,
                           const RowUpdate& update) {
  check_row_step(table, state, order, source, update);
  const Tensor gradient = row_sum_definition(order, source);
  row_update_definition(table, state, order.row, gradient, update);
  return row_square_sum_definition(gradient);
}

Tensor row_square_sum_definition(const Tensor& gradient) {
  TORCH_CHECK(gradient.scalar_type() == at::kFloat || gradient.scalar_type() == at::kDouble,
              "row_square_sum: gradient must be float32 or float64, got ", gradient.scalar_type());
  TORCH_CHECK(gradient.dim() == 2, "row_square_sum: gradient must be [U, D], got ", gradient.sizes());
  return gradient.to(at::kDouble).square().sum(1);
}

namespace {

TORCH_LIBRARY_FRAGMENT(loci, m) {
  m.def(
      "row_update_(Tensor(a!) table, Tensor(b!)? moment1, Tensor(c!)? moment2, Tensor(d!)? count, Tensor(e!)? master, "
      "Tensor row, Tensor gradient, int rule, int rounding, float rate, float beta1, float beta2, float epsilon, "
      "float weight_decay, float factor, int seed, int step) -> ()");
  m.def(
      "row_step_(Tensor(a!) table, Tensor(b!)? moment1, Tensor(c!)? moment2, Tensor(d!)? count, Tensor(e!)? master, "
      "Tensor row, Tensor begin, Tensor source_index, Tensor coefficient, Tensor source, int rule, int rounding, "
      "float rate, float beta1, float beta2, float epsilon, float weight_decay, float factor, int seed, int step) "
      "-> Tensor");
  m.def("row_square_sum(Tensor gradient) -> Tensor");
  m.def(
      "row_square_sum.order(Tensor row, Tensor begin, Tensor source_index, Tensor coefficient, Tensor source) -> "
      "Tensor");
}

Tensor order_square_sum_definition(const Tensor& row, const Tensor& begin, const Tensor& source_index,
                                   const Tensor& coefficient, const Tensor& source) {
  return row_square_sum_definition(row_sum_definition({row, begin, source_index, coefficient}, source));
}

TORCH_LIBRARY_IMPL(loci, CompositeExplicitAutograd, m) {
  m.impl("row_update_", run_row_update<row_update_definition>);
  m.impl("row_step_", run_row_step<row_step_definition>);
  m.impl("row_square_sum", row_square_sum_definition);
  m.impl("row_square_sum.order", order_square_sum_definition);
}

std::optional<Tensor> optional(const Tensor& t) {
  return t.defined() ? std::optional(t) : std::nullopt;
}

}  // namespace

void row_update(const Tensor& table, const RowState& state, const Tensor& row, const Tensor& gradient,
                const RowUpdate& update) {
  static const auto op =
      c10::Dispatcher::singleton().findSchemaOrThrow("loci::row_update_", "").typed<RowUpdateSignature>();
  const at::AutoDispatchBelowADInplaceOrView below;  // the table is a leaf that requires gradients
  op.call(table, optional(state.moment1), optional(state.moment2), optional(state.count), optional(state.master), row,
          gradient, static_cast<int64_t>(update.rule), static_cast<int64_t>(update.rounding), update.rate, update.beta1,
          update.beta2, update.epsilon, update.weight_decay, update.factor, static_cast<int64_t>(update.seed),
          update.step);
  table.unsafeGetTensorImpl()->bump_version();
}

Tensor row_step(const Tensor& table, const RowState& state, const RowOrder& order, const Tensor& source,
                const RowUpdate& update) {
  static const auto op =
      c10::Dispatcher::singleton().findSchemaOrThrow("loci::row_step_", "").typed<RowStepSignature>();
  const at::AutoDispatchBelowADInplaceOrView below;
  const Tensor square_sum =
      op.call(table, optional(state.moment1), optional(state.moment2), optional(state.count), optional(state.master),
              order.row, order.begin, order.source, order.coefficient, source, static_cast<int64_t>(update.rule),
              static_cast<int64_t>(update.rounding), update.rate, update.beta1, update.beta2, update.epsilon,
              update.weight_decay, update.factor, static_cast<int64_t>(update.seed), update.step);
  table.unsafeGetTensorImpl()->bump_version();
  return square_sum;
}

Tensor row_square_sum(const Tensor& gradient) {
  static const auto op =
      c10::Dispatcher::singleton().findSchemaOrThrow("loci::row_square_sum", "").typed<Tensor(const Tensor&)>();
  return op.call(gradient);
}

Tensor row_square_sum(const RowOrder& order, const Tensor& source) {
  static const auto op =
      c10::Dispatcher::singleton()
          .findSchemaOrThrow("loci::row_square_sum", "order")
          .typed<Tensor(const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&)>();
  return op.call(order.row, order.begin, order.source, order.coefficient, source);
}

}  // namespace loci
