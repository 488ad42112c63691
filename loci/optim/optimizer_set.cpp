#include "loci/optim/optimizer_set.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/as_strided.h>
#include <ATen/ops/isfinite.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>
#include <set>
#include <utility>

#include "loci/base/check.h"

namespace loci {
namespace {

constexpr std::string_view kOptimizerSet = "optimiser";

// Of a gradient of any strides; without a copy where it is dense in memory, in the order of memory.
double square_sum(const at::Tensor& gradient) {
  if (gradient.numel() == 0) return 0;
  const int64_t width = gradient.dim() == 0 ? 1 : gradient.size(-1);
  const at::Tensor rows = gradient.is_non_overlapping_and_dense()
                              ? at::as_strided(gradient, {gradient.numel() / width, width}, {width, 1})
                              : gradient.reshape({-1, width});
  const at::Tensor row = row_square_sum(rows);
  double sum = 0;
  for (int64_t u = 0; u < row.size(0); ++u) sum += row.const_data_ptr<double>()[u];
  return sum;
}

}  // namespace

OptimizerSet::OptimizerSet(std::vector<NamedParameter> dense, DenseOptimizerOptions dense_options,
                           std::vector<std::pair<TablePtr, RowOptimizerOptions>> tables, uint64_t seed, Reduce reduce)
    : dense_(std::move(dense)),
      options_(std::move(dense_options)),
      rule_(make_dense_optimizer(options_, dense_, seed)),
      reduce_(std::move(reduce)) {
  if (rule_->by_losses() && (reduce_ || !tables.empty())) {
    fail(ExitCode::usage, kOptimizerSet, "a rule of losses must have neither tables nor other ranks",
         fmt::format("{} tables", tables.size()));
  }
  std::set<std::string> names;
  for (auto& [table, options] : tables) {
    if (!names.insert(table->name()).second) {
      fail(ExitCode::bug, kOptimizerSet, "names of tables must differ", "twice " + table->name());
    }
    rows_.emplace_back(table->store(), options, seed);
  }
}

std::vector<at::Tensor> OptimizerSet::with_gradient() const {
  std::vector<at::Tensor> parameters;
  for (const NamedParameter& dense : dense_) {
    const at::Tensor& gradient = dense.value.grad();
    if (!gradient.defined()) continue;
    TORCH_CHECK(!gradient.is_sparse(), "optimiser: gradient of ", dense.name, " must be dense, got sparse");
    parameters.push_back(dense.value);
  }
  return parameters;
}

double OptimizerSet::dense_norm(double scale) const {
  double sum = 0;
  for (const at::Tensor& parameter : with_gradient()) sum += square_sum(parameter.grad());
  return std::sqrt(sum) / scale;
}

void OptimizerSet::step_dense(double rate, double divisor) {
  const at::NoGradGuard no_grad;
  rule_->step(with_gradient(), rate, divisor);
  for (NamedParameter& dense : dense_) {
    if (dense.after_update && dense.value.grad().defined()) dense.after_update(dense.value);
  }
}

StepReport OptimizerSet::step_by_losses(double rate) {
  if (!loss_) fail(ExitCode::bug, kOptimizerSet, "a rule of losses must be given one", "none");
  const at::NoGradGuard no_grad;
  StepReport report;
  report.rate = rate;
  report.skipped = !rule_->step_by_losses(std::exchange(loss_, nullptr), rate);
  for (NamedParameter& dense : dense_) {
    if (dense.after_update && !report.skipped) dense.after_update(dense.value);
  }
  return report;
}

// Dense gradients, squares of norms of rows, the numbers beside them, and whether all rows are finite, in one call. A
// table that is clipped has one norm, of its rows on all ranks; parts by columns have it already.
bool OptimizerSet::sum_over_ranks(std::vector<PendingRows>& pending, bool finite) {
  const at::Tensor beside = std::exchange(beside_, {});
  if (reduce_) {
    std::vector<at::Tensor> sums;
    for (const at::Tensor& parameter : with_gradient()) sums.push_back(parameter.grad());
    const at::Tensor numbers = at::zeros({1 + std::ssize(pending)}, at::kDouble);  // ranks with bad rows, squares
    auto* const number = numbers.mutable_data_ptr<double>();
    number[0] = finite ? 0 : 1;
    const auto clipped_by_rows = [&](size_t i) {
      return rows_[i].options().clip_norm != 0 && rows_[i].rows().columns().whole();
    };
    for (size_t i = 0; i < pending.size(); ++i) {
      if (clipped_by_rows(i)) number[1 + i] = *pending[i].norm * *pending[i].norm;
    }
    sums.push_back(numbers);
    if (beside.defined()) sums.push_back(beside);
    reduce_(sums);
    finite = number[0] == 0;
    for (size_t i = 0; i < pending.size(); ++i) {
      if (clipped_by_rows(i)) pending[i].norm = std::sqrt(number[1 + i]);
    }
  }
  return finite && (!beside.defined() || beside.isfinite().all().item<bool>());
}

StepReport OptimizerSet::step(int64_t step, int64_t steps, double scale) {
  StepReport report;
  report.rate = options_.learning_rate * schedule_factor(options_.schedule, step, steps);
  if (by_losses()) return step_by_losses(report.rate);
  std::vector<PendingRows> pending;
  for (const RowOptimizer& rows : rows_) pending.push_back(rows.pending(scale));
  const bool here = std::all_of(pending.begin(), pending.end(), [](const PendingRows& p) { return p.finite(); });
  const bool finite = sum_over_ranks(pending, here);
  report.dense_norm = dense_norm(scale);
  report.skipped = !finite || !std::isfinite(report.dense_norm);

  if (!report.skipped) {
    const bool clip = options_.clip_norm > 0 && report.dense_norm > options_.clip_norm;
    step_dense(report.rate, scale * (clip ? report.dense_norm / options_.clip_norm : 1));
  }
  for (size_t i = 0; i < rows_.size(); ++i) {
    report.tables.push_back(rows_[i].apply(pending[i], scale, !report.skipped));
  }
  zero_gradients();
  return report;
}

void OptimizerSet::zero_gradients() {
  for (const NamedParameter& dense : dense_) dense.value.mutable_grad().reset();
  for (const RowOptimizer& rows : rows_) rows.rows().references().clear();
}

std::vector<std::pair<std::string, at::Tensor>> OptimizerSet::state() const {
  return state_of(true);
}

std::vector<std::pair<std::string, at::Tensor>> OptimizerSet::state_beside_rows() const {
  return state_of(false);
}

std::vector<std::pair<std::string, at::Tensor>> OptimizerSet::state_of(bool with_rows) const {
  std::vector<std::pair<std::string, at::Tensor>> named;
  for (const auto& [name, tensor] : rule_->state()) named.emplace_back("dense." + name, tensor);
  for (const RowOptimizer& rows : rows_) {
    const std::string prefix = "table." + rows.rows().name() + ".";
    for (const auto& [name, tensor] : rows.state()) {
      if (with_rows || tensor.dim() == 0) named.emplace_back(prefix + name, tensor);
    }
  }
  return named;
}

void OptimizerSet::clear_state(const at::Tensor& parameter) {
  rule_->clear(parameter);
}

void OptimizerSet::clear_rows(const at::Tensor& parameter, const at::Tensor& rows, const at::Tensor& like) {
  rule_->clear_rows(parameter, rows, like);
}

RowOptimizer& OptimizerSet::rows_of(const Table& table) {
  return const_cast<RowOptimizer&>(std::as_const(*this).rows_of(table));
}

const RowOptimizer& OptimizerSet::rows_of(const Table& table) const {
  for (const RowOptimizer& rows : rows_) {
    if (&rows.rows() == &table.store()) return rows;
  }
  fail(ExitCode::bug, kOptimizerSet, "table must be one of the set", table.name());
}

}  // namespace loci
