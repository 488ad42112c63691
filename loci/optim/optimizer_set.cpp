#include "loci/optim/optimizer_set.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/as_strided.h>
#include <ATen/ops/scalar_tensor.h>

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

bool OptimizerSet::all_finite(bool here) const {
  if (!reduce_) return here;
  const at::Tensor bad = at::scalar_tensor(here ? 0.0 : 1.0, at::kDouble);
  reduce_({bad});
  return bad.item<double>() == 0;
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

// A table that is clipped has one norm, of its rows on all ranks. Parts by columns have it already.
std::vector<PendingRows> OptimizerSet::pending_rows(double scale) const {
  std::vector<PendingRows> pending;
  for (const RowOptimizer& rows : rows_) {
    PendingRows& here = pending.emplace_back(rows.pending(scale));
    if (!reduce_ || rows.options().clip_norm == 0 || !rows.rows().columns().whole()) continue;
    const at::Tensor square = at::scalar_tensor(*here.norm * *here.norm, at::kDouble);
    reduce_({square});
    here.norm = std::sqrt(square.item<double>());
  }
  return pending;
}

StepReport OptimizerSet::step(int64_t step, int64_t steps, double scale) {
  StepReport report;
  report.rate = options_.learning_rate * schedule_factor(options_.schedule, step, steps);
  if (by_losses()) return step_by_losses(report.rate);
  if (reduce_) {
    std::vector<at::Tensor> gradients;
    for (const at::Tensor& parameter : with_gradient()) gradients.push_back(parameter.grad());
    reduce_(gradients);
  }
  report.dense_norm = dense_norm(scale);
  const std::vector<PendingRows> pending = pending_rows(scale);
  const bool rows_finite = std::all_of(pending.begin(), pending.end(), [](const PendingRows& p) { return p.finite(); });
  report.skipped = !all_finite(std::isfinite(report.dense_norm) && rows_finite);

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
