// Legend: R rows of the store, D width, U distinct rows.
#include "loci/optim/row_optimizer.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/scalar_tensor.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <numeric>
#include <utility>

#include "loci/base/check.h"
#include "loci/base/random.h"

namespace loci {
namespace {

bool has_count(RowRule rule) {
  return rule == RowRule::adam || rule == RowRule::adam_row_moment;
}

// Of the moments [R, D].
at::ScalarType moment_type(const RowOptimizerOptions& options, at::ScalarType dtype) {
  if (dtype == at::kDouble) return at::kDouble;
  return options.moments == RowMoments::bfloat16 ? at::kBFloat16 : at::kFloat;
}

bool has_master(const RowOptimizerOptions& options, at::ScalarType dtype) {
  return dtype == at::kBFloat16 && options.rounding == RowRounding::master;
}

// The largest |x|; NaN where x has one. Numbers without a sign are in the order of their bits, NaN above all others.
template <class Real, class Bits>
double largest_of(const at::Tensor& x) {
  const at::Tensor dense = x.contiguous();
  const Real* const from = dense.const_data_ptr<Real>();
  const Bits bits = at::parallel_reduce(
      0, dense.numel(), /*grain=*/int64_t{1} << 15, Bits{0},
      [from](int64_t begin, int64_t end, Bits most) {
        for (int64_t i = begin; i < end; ++i) {
          most = std::max(most, static_cast<Bits>(std::bit_cast<Bits>(from[i]) & std::numeric_limits<Bits>::max()));
        }
        return most;
      },
      [](Bits a, Bits b) { return std::max(a, b); });
  return static_cast<double>(std::bit_cast<Real>(bits));
}

// Whether no sum of M products coefficient * source can be infinite or NaN, and the norm of all sums, divided by scale,
// has a finite square in their dtype: known from the largest of each. False where that is in doubt.
bool surely_finite(const OrderedReferences& gradient, double scale) {
  const bool narrow = gradient.source.scalar_type() == at::kFloat;
  const auto largest = narrow ? largest_of<float, int32_t> : largest_of<double, int64_t>;
  const double a = largest(gradient.order.coefficient), b = largest(gradient.source);
  const double sum = a * b * static_cast<double>(gradient.order.coefficient.numel());
  const double norm = sum * std::sqrt(static_cast<double>(gradient.source.size(1))) / scale;
  return sum < (narrow ? 1e38 : 1e140) && norm < (narrow ? 1e19 : 1e140);  // false for NaN
}

double largest_number(const at::Tensor& x) {
  return x.scalar_type() == at::kDouble ? std::numeric_limits<double>::max()
                                        : double{std::numeric_limits<float>::max()};
}

// In blocks: short chains of additions, and an order that no thread changes.
double norm_of(const at::Tensor& square_sum) {  // [U]
  const double* square = square_sum.const_data_ptr<double>();
  double total = 0;
  for (int64_t begin = 0; begin < square_sum.size(0); begin += 1024) {
    const int64_t end = std::min(begin + 1024, square_sum.size(0));
    total += std::accumulate(square + begin, square + end, 0.0);
  }
  return std::sqrt(total);
}

}  // namespace

const std::vector<std::pair<std::string, RowRule>>& row_rule_words() {
  static const std::vector<std::pair<std::string, RowRule>> words = {{"adam", RowRule::adam},
                                                                     {"adam_row_moment", RowRule::adam_row_moment},
                                                                     {"adagrad", RowRule::adagrad},
                                                                     {"sgd", RowRule::sgd}};
  return words;
}

const std::vector<std::pair<std::string, RowRounding>>& row_rounding_words() {
  static const std::vector<std::pair<std::string, RowRounding>> words = {
      {"stochastic", RowRounding::stochastic}, {"nearest", RowRounding::nearest}, {"master", RowRounding::master}};
  return words;
}

const std::vector<std::pair<std::string, RowMoments>>& row_moments_words() {
  static const std::vector<std::pair<std::string, RowMoments>> words = {{"float32", RowMoments::float32},
                                                                        {"bfloat16", RowMoments::bfloat16}};
  return words;
}

const std::vector<std::pair<std::string, RowPages>>& row_pages_words() {
  static const std::vector<std::pair<std::string, RowPages>> words = {{"huge", RowPages::huge},
                                                                      {"small", RowPages::small}};
  return words;
}

bool has_row_moment(RowRule rule) {
  return rule == RowRule::adam_row_moment || rule == RowRule::adagrad;
}

void RowOptimizerOptions::fields(ConfigFields& f) {
  f.choice("rule", rule, "update rule of the rows", row_rule_words());
  f.field("learning_rate", learning_rate, "learning rate of the rows, constant", {.minimum = 0});
  f.when(has_count(rule), "table_optimizer.rule is \"adam\" or \"adam_row_moment\"", [&] {
    f.field("beta1", beta1, "decay of the first moment", {.minimum = 0, .maximum = 0.999999});
    f.field("beta2", beta2, "decay of the second moment", {.minimum = 0, .maximum = 0.999999});
  });
  f.when(rule != RowRule::sgd, "table_optimizer.rule is not \"sgd\"", [&] {
    f.field("epsilon", epsilon, "added to the root of the second moment; 0: the rule's own", {.minimum = 0});
  });
  f.field("weight_decay", weight_decay, "decoupled weight decay of the rows that a step touches", {.minimum = 0});
  f.field("clip_norm", clip_norm, "largest norm of a table's gradient; 0: not clipped", {.minimum = 0});
  f.choice("rounding", rounding, "how bfloat16 rows are rounded: by chance, to the nearest, or from a float32 copy",
           row_rounding_words());
  f.when(has_count(rule), "table_optimizer.rule is \"adam\" or \"adam_row_moment\"",
         [&] { f.choice("moments", moments, "type of the moments", row_moments_words()); });
  f.choice("pages", pages, "memory pages of the state; small: rows that no step touched take no memory",
           row_pages_words());
}

bool PendingRows::finite() const {
  return !norm || std::isfinite(*norm);
}

RowOptimizer::RowOptimizer(RowStore& rows, RowOptimizerOptions options, uint64_t seed)
    : rows_(rows.shared_from_this()),
      options_(options),
      seed_(seed ^ stream_of("row_optimizer." + rows.name())),
      steps_(at::zeros({}, at::kLong)) {
  const std::string who = "row optimiser of table " + rows.name();
  if (!rows.values().is_cpu()) fail(ExitCode::usage, who, "rows must be on cpu", rows.values().device().str());
  set_rates(
      {options.learning_rate, options.beta1, options.beta2, options.epsilon, options.weight_decay, options.clip_norm});
  const auto dtype = rows.values().scalar_type();
  const auto real = dtype == at::kDouble ? at::kDouble : at::kFloat;
  const PageSize size = options_.pages == RowPages::huge ? PageSize::huge : PageSize::small;
  const auto storage = [&](const char* what, int64_t width, at::ScalarType type) {
    return rows.row_storage(what, width, type, size);
  };
  if (has_count(options_.rule)) {
    state_.moment1 = storage("moment1", rows.width(), moment_type(options_, dtype));
    state_.count = storage("count", 0, at::kInt);
  }
  if (options_.rule == RowRule::adam) state_.moment2 = storage("moment2", rows.width(), moment_type(options_, dtype));
  if (has_row_moment(options_.rule)) {
    state_.moment2 = storage("moment2", 0, real);
  }
  if (has_master(options_, dtype)) state_.master = storage("master", rows.width(), at::kFloat);
}

void RowOptimizer::set_rates(const RowRates& rates) {
  options_.learning_rate = rates.learning_rate;
  options_.beta1 = rates.beta1;
  options_.beta2 = rates.beta2;
  options_.epsilon = rates.epsilon != 0 ? rates.epsilon : options_.rule == RowRule::adagrad ? 1e-10 : 1e-8;
  options_.weight_decay = rates.weight_decay;
  options_.clip_norm = rates.clip_norm;
}

PendingRows RowOptimizer::pending(double scale) const {
  PendingRows pending{rows_->references().ordered(), std::nullopt};
  TORCH_CHECK(pending.gradient.source.is_cpu(), "row optimiser of table ", rows_->name(),
              ": gradients must be on cpu like the rows, got ", pending.gradient.source.device());
  if (options_.clip_norm > 0 || !surely_finite(pending.gradient, scale)) {
    const double norm = norm_of(row_square_sum(pending.gradient.order, pending.gradient.source)) / scale;
    // A second moment could not hold the square (row_update.h), so such a gradient counts as infinite.
    pending.norm =
        norm * norm > largest_number(pending.gradient.source) ? std::numeric_limits<double>::infinity() : norm;
  }
  if (!rows_->columns().whole()) pending.norm = whole_norm(pending.norm);
  return pending;
}

// Of the norms of all columns, where one is wanted: all ranks clip and skip alike.
std::optional<double> RowOptimizer::whole_norm(std::optional<double> here) const {
  if (!rows_->column_sum()) fail(ExitCode::bug, "table " + rows_->name(), "its parts must make a table", "none");
  const at::Tensor square = at::scalar_tensor(here ? *here * *here : 0, at::kDouble);
  rows_->column_sum()({square});
  const double norm = std::sqrt(square.item<double>());
  return options_.clip_norm > 0 || !std::isfinite(norm) ? std::optional(norm) : std::nullopt;
}

// Of whole rows, for rules with one second moment a row; undefined where they need none. Every rank has the same rows.
at::Tensor RowOptimizer::whole_squares(const OrderedReferences& gradient) const {
  if (rows_->columns().whole() || !has_row_moment(options_.rule)) return {};
  const at::Tensor square = row_square_sum(gradient.order, gradient.source);
  rows_->column_sum()({square});
  return square;
}

RowStep RowOptimizer::apply(const PendingRows& pending, double scale, bool wanted) {
  rows_->references().clear();
  if (!wanted || !pending.finite()) return {0, pending.norm.value_or(0), true};
  const bool clip = options_.clip_norm > 0 && *pending.norm > options_.clip_norm;
  RowUpdate update;
  update.rule = options_.rule;
  update.rounding = options_.rounding;
  update.rate = options_.learning_rate;
  update.beta1 = options_.beta1;
  update.beta2 = options_.beta2;
  update.epsilon = options_.epsilon;
  update.weight_decay = options_.weight_decay;
  update.factor = (clip ? options_.clip_norm / *pending.norm : 1) / scale;
  update.seed = seed_;
  update.step = steps_.item<int64_t>();
  update.first_row = rows_->first_row();
  update.first_column = rows_->columns().first;
  update.whole_width = rows_->columns().all;
  steps_.add_(1);
  const RowOrder& order = pending.gradient.order;
  if (order.row.size(0) == 0) return {0, pending.norm.value_or(0), false};
  RowState state = state_;
  state.square_sum = whole_squares(pending.gradient);
  at::Tensor square_sum;
  rows_->write_rows(order.row,
                    [&] { square_sum = row_step(rows_->values(), state, order, pending.gradient.source, update); });
  return {order.row.size(0), norm_of(square_sum) / scale, false};
}

RowStep RowOptimizer::step(double scale) {
  return apply(pending(scale), scale);
}

std::vector<std::pair<std::string, at::Tensor>> RowOptimizer::row_state() const {
  std::vector<std::pair<std::string, at::Tensor>> named;
  if (state_.moment1.defined()) named.emplace_back("moment1", state_.moment1);
  if (state_.moment2.defined()) named.emplace_back("moment2", state_.moment2);
  if (state_.count.defined()) named.emplace_back("count", state_.count);
  if (state_.master.defined()) named.emplace_back("master", state_.master);
  return named;
}

std::vector<std::pair<std::string, at::Tensor>> RowOptimizer::state() const {
  auto named = row_state();
  named.emplace_back("steps", steps_);
  return named;
}

void RowOptimizer::clear_state() {
  rows_->write_all([&] {
    for (const auto& [name, state] : row_state()) rows_->clear_storage(state);
  });
}

void RowOptimizer::clear_state(const at::Tensor& row) {
  rows_->write_rows(row, [&] {
    for (const auto& [name, state] : row_state()) at::Tensor(state).index_fill_(0, row, 0);
  });
}

int64_t RowOptimizer::state_bytes(int64_t rows, int64_t width, const RowOptimizerOptions& options,
                                  at::ScalarType dtype) {
  const std::string_view who = "row optimiser";
  const int64_t real = dtype == at::kDouble ? 8 : 4;
  const auto row_bytes = [&](at::ScalarType type) {
    return checked_product(who, "bytes of a row", width, static_cast<int64_t>(c10::elementSize(type)));
  };
  const int64_t moment_bytes = row_bytes(moment_type(options, dtype));
  int64_t bytes = 0;  // of a row
  if (has_count(options.rule)) bytes += moment_bytes + 4;
  if (options.rule == RowRule::adam) bytes += moment_bytes;
  if (has_row_moment(options.rule)) bytes += real;
  if (has_master(options, dtype)) bytes += row_bytes(at::kFloat);
  return checked_product(who, "bytes of state", rows, bytes);
}

}  // namespace loci
