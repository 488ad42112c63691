#include "loci/optim/optimizer_set.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/_fused_adamw.h>
#include <ATen/ops/scalar_tensor.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <set>
#include <utility>

#include "loci/base/check.h"

namespace loci {
namespace {

constexpr std::string_view kWho = "optimiser";

void check_parameter(const NamedParameter& parameter, std::set<std::string>& names) {
  const auto dtype = parameter.value.scalar_type();
  if (dtype != at::kFloat && dtype != at::kDouble) {
    fail(ExitCode::usage, kWho, parameter.name + " must be float32 or float64", c10::toString(dtype));
  }
  if (!parameter.value.is_contiguous()) fail(ExitCode::bug, kWho, parameter.name + " must be contiguous", "strides");
  if (!names.insert(parameter.name).second) fail(ExitCode::bug, kWho, "names must differ", "twice " + parameter.name);
}

double square_sum(const at::Tensor& gradient) {
  const int64_t width = gradient.dim() == 0 ? 1 : gradient.size(-1);
  if (gradient.numel() == 0) return 0;
  const at::Tensor row = row_square_sum(gradient.reshape({-1, width})).cpu();
  double sum = 0;
  for (int64_t u = 0; u < row.size(0); ++u) sum += row.const_data_ptr<double>()[u];
  return sum;
}

}  // namespace

void DenseOptimizerOptions::fields(ConfigFields& f) {
  f.field("learning_rate", learning_rate, {.minimum = 0});
  f.field("beta1", beta1, {.minimum = 0, .maximum = 0.999999});
  f.field("beta2", beta2, {.minimum = 0, .maximum = 0.999999});
  f.field("epsilon", epsilon, {.minimum = 0});
  f.field("weight_decay", weight_decay, {.minimum = 0});
  f.field("clip_norm", clip_norm, {.minimum = 0});
  f.section("schedule", schedule);
}

OptimizerSet::OptimizerSet(std::vector<NamedParameter> dense, DenseOptimizerOptions dense_options,
                           std::vector<std::pair<TablePtr, RowOptimizerOptions>> tables, uint64_t seed)
    : options_(std::move(dense_options)) {
  std::set<std::string> names;
  for (NamedParameter& parameter : dense) {
    check_parameter(parameter, names);
    const at::Tensor value = parameter.value.detach();
    dense_.push_back({std::move(parameter), at::zeros_like(value), at::zeros_like(value), at::zeros({}, at::kFloat)});
  }
  names.clear();
  for (auto& [table, options] : tables) {
    if (!names.insert(table->name()).second) {
      fail(ExitCode::bug, kWho, "names of tables must differ", "twice " + table->name());
    }
    rows_.emplace_back(table->store(), options, seed);
  }
}

double OptimizerSet::dense_norm(double scale) const {
  double sum = 0;
  for (const Dense& dense : dense_) {
    const at::Tensor& gradient = dense.parameter.value.grad();
    if (!gradient.defined()) continue;
    TORCH_CHECK(!gradient.is_sparse(), "optimiser: gradient of ", dense.parameter.name, " must be dense, got sparse");
    sum += square_sum(gradient);
  }
  return std::sqrt(sum) / scale;
}

void OptimizerSet::step_dense(double rate, double divisor) {
  const at::NoGradGuard no_grad;
  std::map<std::pair<double, double>, std::vector<Dense*>> groups;  // by decay and rate
  for (Dense& dense : dense_) {
    if (!dense.parameter.value.grad().defined()) continue;
    groups[{dense.parameter.decay ? options_.weight_decay : 0, rate * dense.parameter.rate_factor}].push_back(&dense);
  }
  const auto grad_scale = divisor == 1 ? std::nullopt : std::optional(at::scalar_tensor(divisor, at::kFloat));
  for (const auto& [key, members] : groups) {
    // The fused kernel walks raw memory and wants one dtype: gradients contiguous as their parameters, by dtype.
    for (const auto dtype : {at::kFloat, at::kDouble}) {
      std::vector<at::Tensor> value, gradient, moment1, moment2, count;
      for (Dense* dense : members) {
        if (dense->parameter.value.scalar_type() != dtype) continue;
        dense->count.add_(1);
        value.push_back(dense->parameter.value);
        gradient.push_back(dense->parameter.value.grad().contiguous());
        moment1.push_back(dense->moment1);
        moment2.push_back(dense->moment2);
        count.push_back(dense->count);
      }
      if (value.empty()) continue;
      at::_fused_adamw_(value, gradient, moment1, moment2, {}, count, key.second, options_.beta1, options_.beta2,
                        key.first, options_.epsilon, /*amsgrad=*/false, /*maximize=*/false, grad_scale);
    }
  }
}

StepReport OptimizerSet::step(int64_t step, int64_t steps, double scale) {
  StepReport report;
  report.rate = options_.learning_rate * schedule_factor(options_.schedule, step, steps);
  report.dense_norm = dense_norm(scale);
  std::vector<PendingRows> pending;
  for (const RowOptimizer& rows : rows_) pending.push_back(rows.pending(scale));
  report.skipped = !std::isfinite(report.dense_norm) ||
                   !std::all_of(pending.begin(), pending.end(), [](const PendingRows& p) { return p.finite(); });

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
  for (const Dense& dense : dense_) dense.parameter.value.mutable_grad().reset();
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
  for (const Dense& dense : dense_) {
    const std::string prefix = "dense." + dense.parameter.name;
    named.emplace_back(prefix + ".moment1", dense.moment1);
    named.emplace_back(prefix + ".moment2", dense.moment2);
    named.emplace_back(prefix + ".count", dense.count);
  }
  for (const RowOptimizer& rows : rows_) {
    const std::string prefix = "table." + rows.rows().name() + ".";
    for (const auto& [name, tensor] : rows.state()) {
      if (with_rows || tensor.dim() == 0) named.emplace_back(prefix + name, tensor);
    }
  }
  return named;
}

void OptimizerSet::clear_state(const at::Tensor& parameter) {
  for (const Dense& dense : dense_) {
    if (!dense.parameter.value.is_same(parameter)) continue;
    for (const at::Tensor& state : {dense.moment1, dense.moment2, dense.count}) state.zero_();
    return;
  }
  fail(ExitCode::bug, kWho, "parameter must be one of the set", "another");
}

RowOptimizer& OptimizerSet::rows_of(const Table& table) {
  return const_cast<RowOptimizer&>(std::as_const(*this).rows_of(table));
}

const RowOptimizer& OptimizerSet::rows_of(const Table& table) const {
  for (const RowOptimizer& rows : rows_) {
    if (&rows.rows() == &table.store()) return rows;
  }
  fail(ExitCode::bug, kWho, "table must be one of the set", table.name());
}

}  // namespace loci
