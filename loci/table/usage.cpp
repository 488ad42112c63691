#include "loci/table/usage.h"

#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "loci/base/check.h"
#include "loci/table/page_memory.h"

namespace loci {
namespace {

// z ln z of the share z = value / total.
double entropy_term(double value, double total) {
  const double z = value / total;
  return z == 0 ? 0 : z * std::log(z);
}

// Gini and the rows that hold most of the weight, from the shares of rows with weight alone: the others sort before.
void measure_weight(std::vector<double> share, double rows, UsageMetrics& metrics) {
  std::sort(share.begin(), share.end());
  double sum = 0, area = 0;
  for (const double z : share) {
    sum += z;
    area += sum;
  }
  metrics.gini = 1 + 1 / rows - 2 * area / rows;

  double mass = 0;
  int64_t count = 0;
  const std::array<std::pair<double, int64_t*>, 3> marks = {
      {{0.5, &metrics.rows_50}, {0.9, &metrics.rows_90}, {0.99, &metrics.rows_99}}};
  for (const auto& [part, result] : marks) {
    while (mass < part - 1e-12 && count < static_cast<int64_t>(share.size())) {
      mass += share[share.size() - 1 - static_cast<size_t>(count)];
      ++count;
    }
    *result = count;
  }
}

// The smallest value with at least `part` of all values at or below it.
int64_t percentile(std::vector<int64_t>& values, double part) {
  const auto rank = static_cast<size_t>(std::ceil(part * static_cast<double>(values.size())));
  const auto position = values.begin() + static_cast<std::ptrdiff_t>(std::max<size_t>(rank, 1) - 1);
  std::nth_element(values.begin(), position, values.end());
  return *position;
}

}  // namespace

Usage::Usage(int64_t rows) : rows_(rows) {
  if (rows < 1) fail(ExitCode::bug, "Usage", "rows must be at least 1", fmt::format("{}", rows));
}

void Usage::set_step(int64_t step) {
  if (step < step_ || step >= std::numeric_limits<int32_t>::max()) {
    fail(ExitCode::bug, "Usage", fmt::format("step must be within {} .. 2^31 - 2", step_), fmt::format("{}", step));
  }
  step_ = step;
}

void Usage::begin_window(int64_t step) {
  if (step < 0) fail(ExitCode::bug, "Usage", "step must be at least 0", fmt::format("{}", step));
  window_ = step;
}

const at::Tensor& Usage::state() {
  if (!state_.defined()) {
    const c10::InferenceMode writable(false);  // a tensor made in inference mode could be written in that mode alone
    state_ = zero_pages("counters of rows", rows_, 3, at::kInt, PageSize::small);
  }
  return state_;
}

std::span<const RowUsage> Usage::all() const {
  if (!state_.defined()) return {};
  return {static_cast<const RowUsage*>(state_.const_data_ptr()), static_cast<size_t>(rows_)};
}

RowUsage Usage::in_window(const RowUsage& row) const {
  return row.touched > window_ ? row : RowUsage{.touched = row.touched};
}

RowUsage Usage::row(int64_t row) const {
  if (row < 0 || row >= rows_) {
    fail(ExitCode::bug, "Usage", fmt::format("row must be within 0 .. {}", rows_ - 1), fmt::format("{}", row));
  }
  return state_.defined() ? in_window(all()[static_cast<size_t>(row)]) : RowUsage{};
}

void Usage::reads(const MemoryReads& reads) {
  // A window may begin after this step: in_window() hides what such reads count, their dates stay.
  usage_add(state(), reads.index.to(at::kCPU), reads.weight.to(at::kCPU, at::kFloat), std::min(window_, step_), step_);
}

UsageMetrics Usage::metrics() const {
  UsageMetrics result;
  result.rows = rows();
  int64_t heaviest = 0, shared = 0;
  int32_t newest = 0;
  double total = 0;
  for (const RowUsage& stored : all()) {
    const RowUsage row = in_window(stored);
    const int64_t reads = row.reads();
    result.reads += reads;
    result.distinct_rows += reads > 0;
    heaviest += row.heaviest();
    if (reads > 1) shared += reads;
    total += static_cast<double>(row.weight);
    newest = std::max(newest, row.touched);
  }
  const auto n = static_cast<double>(result.rows), reads = static_cast<double>(result.reads);
  double of_reads = std::log(n), of_weight = std::log(n);
  std::vector<int64_t> staleness;
  std::vector<double> share;
  for (const RowUsage& stored : all()) {
    const RowUsage row = in_window(stored);
    const auto weight = static_cast<double>(row.weight);
    of_reads += entropy_term(static_cast<double>(row.reads()), reads);
    of_weight += entropy_term(weight, total);
    if (weight != 0) share.push_back(weight / total);
    if (row.touched > 0) staleness.push_back(newest - row.touched);
  }
  constexpr double undefined = std::numeric_limits<double>::quiet_NaN();
  const bool weighs = std::isfinite(total) && total > 0;
  result.usage = static_cast<double>(result.distinct_rows) / n;
  result.usage_at_1 = static_cast<double>(heaviest) / n;
  result.kl = weighs ? of_weight : undefined;
  result.kl_reads = result.reads > 0 ? of_reads : undefined;
  result.gini = undefined;
  if (weighs) measure_weight(std::move(share), n, result);
  result.collision = result.reads > 0 ? static_cast<double>(shared) / reads : undefined;
  result.never_touched = 1 - static_cast<double>(staleness.size()) / n;
  if (!staleness.empty()) {
    result.staleness_median = percentile(staleness, 0.5);
    result.staleness_p90 = percentile(staleness, 0.9);
  }
  return result;
}

// sum of z ln z = (sum of q ln q) / Q - ln Q, with Q the sum of all q.
std::pair<double, double> Usage::usage_and_kl() const {
  int64_t distinct = 0;
  double total = 0, logs = 0;
  for (const RowUsage& row : all()) {
    if (row.touched <= window_ || row.reads() == 0) continue;
    ++distinct;
    const auto weight = static_cast<double>(row.weight);
    if (weight == 0) continue;
    total += weight;
    logs += weight * std::log(weight);
  }
  const auto n = static_cast<double>(rows());
  const bool weighs = std::isfinite(total) && total > 0;
  const double kl = weighs ? std::log(n) + logs / total - std::log(total) : std::numeric_limits<double>::quiet_NaN();
  return {static_cast<double>(distinct) / n, kl};
}

int64_t Usage::count_since(int64_t step) const {
  return std::ranges::count_if(all(), [step](const RowUsage& row) { return row.touched > step; });
}

std::vector<int64_t> Usage::touched_since(int64_t step) const {
  std::vector<int64_t> result;
  const std::span<const RowUsage> rows = all();
  for (size_t row = 0; row < rows.size(); ++row) {
    if (rows[row].touched > step) result.push_back(static_cast<int64_t>(row));
  }
  return result;
}

}  // namespace loci
