#include "loci/tasks/reinitialisation.h"

#include <ATen/ops/zeros.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

namespace loci {
namespace {

constexpr int64_t kLosses = 10;     // that a mean is over
constexpr int64_t kLossAfter = 50;  // steps
// Where in losses_ stands what follows the losses.
constexpr int64_t kCount = kLosses, kDue = kLosses + 1, kBefore = kLosses + 2, kNumber = kLosses + 3;

double mean_of_losses(const double* losses) {
  const auto count = std::min(kLosses, static_cast<int64_t>(losses[kCount]));
  if (count == 0) return std::numeric_limits<double>::quiet_NaN();
  return std::accumulate(losses, losses + count, 0.0) / static_cast<double>(count);
}

}  // namespace

// What the window counts of a memory.
struct Reinitialisation::Window {
  RenewedMemory renewed;
  std::string name;
  std::shared_ptr<SubKeyCounts> sub_keys;
  std::shared_ptr<QueryReservoir> queries;  // of the rule query
};

Reinitialisation::Reinitialisation(const std::vector<RenewedMemory>& memories, const ReinitialiseOptions& options,
                                   double row_deviation, uint64_t seed)
    : options_(options),
      row_deviation_(row_deviation),
      seed_(seed),
      state_(at::zeros({3}, at::kLong)),
      losses_(at::zeros({kNumber + 1}, at::kDouble)) {
  for (const RenewedMemory& renewed : memories) {
    const std::string name = fmt::format("layers.{}", renewed.layer);
    windows_.push_back(
        std::make_shared<Window>(Window{renewed, name, std::make_shared<SubKeyCounts>(*renewed.memory), nullptr}));
    if (options.keys == KeyRule::query) {
      windows_.back()->queries = std::make_shared<QueryReservoir>(*renewed.memory, seed, name);
    }
  }
}

void Reinitialisation::observe(std::deque<ObserverScope>& scopes) const {
  for (const auto& window : windows_) {
    scopes.emplace_back(*window->renewed.memory, window->sub_keys);
    if (window->queries) scopes.emplace_back(*window->renewed.memory, window->queries);
  }
}

void Reinitialisation::begin_window(int64_t begin, int64_t begin_before) {
  auto* const state = state_.mutable_data_ptr<int64_t>();
  ++state[0];
  state[1] = begin;
  state[2] = begin_before;
  for (const auto& window : windows_) {
    window->sub_keys->clear();
    if (window->queries) window->queries->begin(state[0]);
  }
}

void Reinitialisation::restart(int64_t step) {
  begin_window(step, 0);
}

void Reinitialisation::after_step(const StepMade& made, OptimizerSet& optimizers, std::vector<TaskEvent>& events) {
  auto* const losses = losses_.mutable_data_ptr<double>();
  if (std::isfinite(made.loss)) {
    losses[static_cast<int64_t>(losses[kCount]) % kLosses] = made.loss;
    ++losses[kCount];
  }
  if (losses[kDue] == static_cast<double>(made.step)) {
    events.push_back({{{"kind", "reinitialise_loss"},
                       {"event", static_cast<int64_t>(losses[kNumber])},
                       {"loss_before", losses[kBefore]},
                       {"loss_after", mean_of_losses(losses)}},
                      ""});
  }
  const auto* const state = state_.const_data_ptr<int64_t>();
  const ReinitialiseEvent event{state[0], state[1], state[2], seed_, row_deviation_};
  if (made.step - event.begin < options_.window) return;
  if (static_cast<double>(made.step) < options_.until * static_cast<double>(made.steps)) {
    redraw(event, optimizers, events);
    losses[kDue] = static_cast<double>(made.step + std::min(kLossAfter, options_.window));
    losses[kBefore] = mean_of_losses(losses);
    losses[kNumber] = static_cast<double>(event.number);
  }
  begin_window(made.step, event.begin);
}

// The layers that share a table are re-initialised together.
void Reinitialisation::redraw(const ReinitialiseEvent& event, OptimizerSet& optimizers,
                              std::vector<TaskEvent>& events) const {
  for (const auto& first : windows_) {
    std::vector<const Window*> sharing;
    std::vector<CountedLayer> layers;
    for (const auto& window : windows_) {
      const RenewedMemory& renewed = window->renewed;
      if (renewed.memory->table() != first->renewed.memory->table()) continue;
      sharing.push_back(window.get());
      layers.push_back(
          {window->name, renewed.memory.get(), window->sub_keys.get(), renewed.usage, window->queries.get()});
    }
    if (sharing.front() != first.get()) continue;  // done with the first layer of its table
    const Reinitialised done = reinitialise(layers, event, options_, optimizers);
    for (size_t i = 0; i < layers.size(); ++i) {
      events.push_back(event_of(*sharing[i], event, done.redrawn[i], done.refreshed));
    }
  }
}

TaskEvent Reinitialisation::event_of(const Window& window, const ReinitialiseEvent& event, int64_t redrawn,
                                     int64_t refreshed) const {
  const Usage& usage = *window.renewed.usage;
  const UsageMetrics metrics = usage.metrics();
  TaskEvent told;
  told.line = {{"kind", "reinitialise"},
               {"event", event.number},
               {"layer", window.renewed.layer},
               {"redrawn", redrawn},
               {"sub_keys", window.sub_keys->state().numel()},
               {"refreshed", refreshed},
               {"used", static_cast<double>(usage.count_since(event.begin)) / static_cast<double>(usage.rows())},
               {"kl", metrics.kl},
               {"gini", metrics.gini}};
  if (redrawn > 0) {
    told.notice = fmt::format("{}{} of {} sub-keys drawn anew, {} rows refreshed",
                              windows_.size() > 1 ? fmt::format("layer {}: ", window.renewed.layer) : "", redrawn,
                              window.sub_keys->state().numel(), refreshed);
  }
  return told;
}

std::vector<std::pair<std::string, at::Tensor>> Reinitialisation::extra_state() const {
  std::vector<std::pair<std::string, at::Tensor>> state = {{"reinitialise.window", state_},
                                                           {"reinitialise.losses", losses_}};
  for (const auto& window : windows_) {
    const std::string prefix = fmt::format("reinitialise.{}.", window->renewed.layer);
    state.emplace_back(prefix + "sub_keys", window->sub_keys->state());
    if (!window->queries) continue;
    for (const auto& [name, tensor] : window->queries->state()) state.emplace_back(prefix + name, tensor);
  }
  return state;
}

}  // namespace loci
