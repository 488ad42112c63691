#include "loci/tasks/memory_watch.h"

#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>
#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <utility>

#include "loci/base/check.h"
#include "loci/table/usage_over_ranks.h"

namespace loci {

nlohmann::json usage_facts(int64_t layer, const UsageMetrics& m) {
  return {{"layer", layer},
          {"usage", m.usage},
          {"usage_at_1", m.usage_at_1},
          {"kl", m.kl},
          {"kl_reads", m.kl_reads},
          {"gini", m.gini},
          {"rows_50", m.rows_50},
          {"rows_90", m.rows_90},
          {"rows_99", m.rows_99},
          {"collision", m.collision},
          {"never_touched", m.never_touched}};
}

// Of one memory.
class MemoryWatch::Counters : public ReadObserver {
 public:
  struct Check {
    int64_t from = 0;  // the step that it counts from
    int64_t reads = 0;
    UsageAlarm alarm = {};
  };

  explicit Counters(const WatchedMemory& watched)
      : layer(watched.layer),
        memory(watched.memory),
        usage(watched.memory->table()->rows()),
        check_state(at::zeros({4}, at::kLong)) {
    if (const auto* keys = dynamic_cast<const ProductKeyMemory*>(memory.get())) {
      sub_keys = std::make_unique<SubKeyCounts>(*keys);
      sub_keys_here = std::make_unique<SubKeyCounts>(*keys);
    }
  }

  void reads(const MemoryReads& reads) override {
    usage.reads(reads);
    if (sub_keys) sub_keys_here->reads(reads);
    reads_here += reads.index.numel();
  }
  // What the ranks have counted of the check since the last call becomes part of what is the same on all of them.
  void share(const Ranks& ranks) {
    const at::Tensor all = at::full({1}, reads_here, at::kLong);
    sum_over(ranks)({all});
    Check now = check();
    now.reads += all.item<int64_t>();
    set_check(now);
    reads_here = 0;
    if (!sub_keys) return;
    sub_keys->state().add_(sub_keys_here->merged(ranks).state());
    sub_keys_here->clear();
  }
  Check check() const {
    const auto* const s = check_state.const_data_ptr<int64_t>();
    return {s[0], s[1], {static_cast<UsageLevel>(s[2]), s[3]}};
  }
  void set_check(const Check& check) const {
    auto* const s = check_state.mutable_data_ptr<int64_t>();
    s[0] = check.from;
    s[1] = check.reads;
    s[2] = static_cast<int64_t>(check.alarm.level);
    s[3] = check.alarm.low_checks;
  }
  void begin_check(int64_t step, const UsageAlarm& alarm) {
    set_check({step, 0, alarm});
    reads_here = 0;
    if (!sub_keys) return;
    sub_keys->clear();
    sub_keys_here->clear();
  }

  int64_t layer;
  std::shared_ptr<MemoryLayer> memory;
  Usage usage;  // of this rank
  // Since the last share(); none for other kinds of keys.
  std::unique_ptr<SubKeyCounts> sub_keys_here;
  int64_t reads_here = 0;
  // Of all ranks until then. Checkpoints hold both.
  std::unique_ptr<SubKeyCounts> sub_keys;
  at::Tensor check_state;  // of a Check
};

MemoryWatch::MemoryWatch(const std::vector<WatchedMemory>& memories, Ranks ranks)
    : ranks_(std::move(ranks)), counted_from_(at::zeros({1}, at::kLong)), window_ended_(at::zeros({1}, at::kLong)) {
  for (const WatchedMemory& memory : memories) memories_.push_back(std::make_shared<Counters>(memory));
}

void MemoryWatch::reinitialise(const ReinitialiseOptions& options, double row_deviation, uint64_t seed) {
  if (ranks_.size > 1) {
    fail(ExitCode::usage, "reinitialise", "keys and rows must be drawn anew by one process",
         fmt::format("{} processes", ranks_.size));
  }
  std::vector<RenewedMemory> renewed;
  for (const auto& counters : memories_) {
    auto memory = std::dynamic_pointer_cast<ProductKeyMemory>(counters->memory);
    if (!memory) fail(ExitCode::bug, "MemoryWatch", "memories must have product keys to be reinitialised", "others");
    renewed.push_back({counters->layer, memory, &counters->usage});
  }
  reinitialisation_ = std::make_unique<Reinitialisation>(renewed, options, row_deviation, seed);
}

std::deque<ObserverScope> MemoryWatch::observe() const {
  std::deque<ObserverScope> scopes;
  for (const auto& counters : memories_) scopes.emplace_back(*counters->memory, counters);
  if (reinitialisation_) reinitialisation_->observe(scopes);
  return scopes;
}

// The counters of a logged window stay until the next step, so that a checkpoint between them holds them.
void MemoryWatch::before_step(int64_t step) {
  if (window_ended_.item<int64_t>() != 0) {
    counted_from_.fill_(step);
    window_ended_.zero_();
  }
  for (const auto& counters : memories_) {
    counters->usage.begin_window(counted_from_.item<int64_t>());
    counters->usage.set_step(step);
  }
}

std::vector<TaskEvent> MemoryWatch::after_step(const StepMade& made, OptimizerSet& optimizers) {
  std::vector<TaskEvent> events;
  if (made.step % kUsageCheck == 0) {
    for (const auto& counters : memories_) events.push_back(check_usage(*counters, made.step));
  }
  if (reinitialisation_) reinitialisation_->after_step(made, optimizers, events);
  return events;
}

TaskEvent MemoryWatch::check_usage(Counters& counters, int64_t step) const {
  counters.share(ranks_);
  const Usage usage = merged(counters.usage, ranks_);
  Counters::Check check = counters.check();
  const int64_t rows = usage.rows();
  const double used = static_cast<double>(usage.count_since(check.from)) / static_cast<double>(rows);
  const double expected = expected_usage(check.reads, rows);
  const UsageLevel before = check.alarm.level;
  check.alarm.check(used, expected);

  const UsageMetrics metrics = usage.metrics();
  TaskEvent event;
  event.line = usage_facts(counters.layer, metrics);
  const char* const levels[] = {"well", "few", "collapsed"};
  event.line.update({{"kind", "memory"},
                     {"steps", step - check.from},
                     {"used", used},
                     {"expected", expected},
                     {"level", levels[static_cast<int64_t>(check.alarm.level)]},
                     {"age_median", metrics.staleness_median},
                     {"age_p90", metrics.staleness_p90}});
  if (counters.sub_keys) event.line["sub_keys_alive"] = alive_share(*counters.sub_keys);
  if (check.alarm.level > before) {
    event.notice = fmt::format("{}{}: {:.1f} % of rows used, {:.0f} % expected; query norm is {}",
                               memories_.size() > 1 ? fmt::format("layer {}: ", counters.layer) : "",
                               check.alarm.level == UsageLevel::collapsed ? "memory collapsed" : "memory uses few rows",
                               100 * used, 100 * expected, word_of(counters.memory->options().query_norm));
  }
  counters.begin_check(step, check.alarm);
  return event;
}

nlohmann::json MemoryWatch::training_measures(bool whole) {
  window_ended_.fill_(1);
  if (empty()) return nlohmann::json::object();
  if (!whole) return {{"usage", nullptr}, {"kl", nullptr}};
  double usage = 0;
  double kl = 0;
  for (const auto& counters : memories_) {
    const auto [share, divergence] = merged(counters->usage, ranks_).usage_and_kl();
    usage += share;
    kl += divergence;
  }
  const auto count = static_cast<double>(memories_.size());
  return {{"usage", usage / count}, {"kl", kl / count}};
}

void MemoryWatch::restarted(int64_t step) {
  for (const auto& counters : memories_) {
    counters->usage.clear();
    counters->begin_check(step, {});
  }
  if (reinitialisation_) reinitialisation_->restart(step);
}

RowCounters MemoryWatch::row_state(const Table& table, int64_t since) const {
  RowCounters state;
  for (const auto& counters : memories_) {
    if (counters->memory->table().get() != &table) continue;
    const RowRange here = table.own_rows();
    counters->share(ranks_);  // for extra_state()
    give_to_owners(counters->usage, here, ranks_);
    state.tensors.emplace_back(fmt::format("usage.{}", counters->layer),
                               counters->usage.state().narrow(0, here.first, here.count));
    std::vector<int64_t> touched = counters->usage.touched_since(since);  // all here: the other rows were given away
    for (int64_t& row : touched) row -= here.first;
    const std::vector<int64_t> before = std::move(state.changed);
    state.changed.clear();
    std::set_union(before.begin(), before.end(), touched.begin(), touched.end(), std::back_inserter(state.changed));
  }
  return state;
}

std::vector<std::pair<std::string, at::Tensor>> MemoryWatch::extra_state() const {
  std::vector<std::pair<std::string, at::Tensor>> state = {{"counted_from", counted_from_},
                                                           {"window_ended", window_ended_}};
  for (const auto& counters : memories_) {
    if (ranks_.size == 1) counters->share(ranks_);
    state.emplace_back(fmt::format("usage_check.{}", counters->layer), counters->check_state);
    if (counters->sub_keys) {
      state.emplace_back(fmt::format("sub_keys.{}", counters->layer), counters->sub_keys->state());
    }
  }
  if (reinitialisation_) {
    for (const auto& part : reinitialisation_->extra_state()) state.push_back(part);
  }
  return state;
}

}  // namespace loci
