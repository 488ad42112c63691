// Legend: H heads, n sub-keys of a half, w half a key's width, N rows, D their width, U redrawn.
#include "loci/nn/memory/reinitialise.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/scalar_tensor.h>
#include <ATen/ops/tensor.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "loci/base/check.h"
#include "loci/base/random.h"
#include "loci/table/row_store.h"

namespace loci {
namespace {

using at::Tensor;

// The redrawn sub-keys of one head and half.
struct RedrawnHalf {
  std::vector<int64_t> dead;
  std::vector<int64_t> parent;  // by sub-key; itself where it was not split off another
};

// The keys [n, w] of a head and half in double, with what the rules ask of the live ones.
class HalfKeys {
 public:
  HalfKeys(const Tensor& keys, std::span<const int64_t> counts, double dead_below)
      : values_(keys.detach().to(at::kDouble).contiguous()), w_(keys.size(1)) {
    const double least = least_live_count(counts, dead_below);
    for (size_t i = 0; i < counts.size(); ++i) {
      if (static_cast<double>(counts[i]) >= least) live.push_back(static_cast<int64_t>(i));
    }
    double sum = 0, squares = 0;
    for (const int64_t i : live) {
      double square = 0;
      for (const double value : row(i)) {
        sum += value;
        square += value * value;
      }
      squares += square;
      length += std::sqrt(square);
    }
    const auto keys_alive = static_cast<double>(live.size()), entries = keys_alive * static_cast<double>(w_);
    length /= keys_alive;
    deviation = std::sqrt(std::max(0.0, squares / entries - sum / entries * (sum / entries)));
  }

  std::span<double> row(int64_t i) const {
    return {values_.mutable_data_ptr<double>() + i * w_, static_cast<size_t>(w_)};
  }
  const Tensor& values() const { return values_; }

  std::vector<int64_t> live;
  double length = 0;     // mean of the live keys'
  double deviation = 0;  // of the entries of the live keys

 private:
  Tensor values_;
  int64_t w_;
};

void draw_fresh(std::span<double> key, const std::string& stream, uint64_t seed, int64_t i) {
  const CounterRandom random(seed, stream + ".fresh");
  const double bound = 1 / std::sqrt(static_cast<double>(key.size()));
  for (size_t c = 0; c < key.size(); ++c) {
    key[c] = bound * (2 * random.uniform(static_cast<uint64_t>(i) * key.size() + c) - 1);
  }
}

// False where there is no such query of a finite length above 0.
bool draw_query(std::span<double> key, const Tensor& queries, int64_t half_number, double length,
                const std::string& stream, uint64_t seed, int64_t i) {
  if (queries.size(0) == 0) return false;
  // In an order without repetition: equal keys would share their reads.
  const auto size = static_cast<uint64_t>(queries.size(0));
  const CounterPermutation order(size, seed, stream_of(stream));
  const auto token = static_cast<int64_t>(order(static_cast<uint64_t>(i) % size));
  const auto width = static_cast<int64_t>(key.size());
  const float* const from = queries.const_data_ptr<float>() + token * queries.stride(0) + half_number * width;
  double square = 0;
  for (int64_t c = 0; c < width; ++c) square += double{from[c]} * double{from[c]};
  if (!std::isfinite(square) || square == 0) return false;
  for (int64_t c = 0; c < width; ++c) key[static_cast<size_t>(c)] = double{from[c]} * length / std::sqrt(square);
  return true;
}

// A live sub-key drawn with p ~ its count.
int64_t draw_parent(std::span<const int64_t> counts, const std::vector<int64_t>& live, const std::string& stream,
                    uint64_t seed, int64_t i) {
  int64_t total = 0;
  for (const int64_t j : live) total += counts[static_cast<size_t>(j)];
  const CounterRandom random(seed, stream + ".parent");
  auto left = static_cast<int64_t>(random.below(static_cast<uint64_t>(i), static_cast<uint64_t>(total)));
  for (const int64_t j : live) {
    left -= counts[static_cast<size_t>(j)];
    if (left < 0) return j;
  }
  return live.back();
}

Tensor index_of(const std::vector<int64_t>& values) {
  return at::tensor(values, at::kLong);
}

// Draws the dead sub-keys of a head and half anew, with their optimiser state.
RedrawnHalf redraw_half(const CountedKeys& layer, int64_t head, int64_t half, const ReinitialiseEvent& event,
                        const ReinitialiseOptions& options, const ForgetState& forget) {
  const std::span<const int64_t> counts = counts_of_half(layer.sub_keys, layer.keys1.size(1), head, half);
  const auto n = std::ssize(counts);
  RedrawnHalf redrawn{dead_sub_keys(counts, options.dead_below, options.most_redrawn),
                      std::vector<int64_t>(counts.size())};
  std::iota(redrawn.parent.begin(), redrawn.parent.end(), 0);
  if (redrawn.dead.empty()) return redrawn;
  const Tensor& parameter = half == 0 ? layer.keys1 : layer.keys2;  // [H, n, w]
  const HalfKeys keys(parameter[head], counts, options.dead_below);
  const std::string stream = fmt::format("reinitialise.{}.{}.{}.{}", layer.name, head, half, event.number);
  for (const int64_t i : redrawn.dead) {
    const std::span<double> key = keys.row(i);
    if (options.keys == KeyRule::split) {
      const int64_t parent = draw_parent(counts, keys.live, stream, event.seed, i);
      const CounterRandom random(event.seed, stream + ".noise");
      for (size_t c = 0; c < key.size(); ++c) {
        const double noise = random.normal(static_cast<uint64_t>(i) * key.size() + c);
        key[c] = keys.row(parent)[c] + options.noise * keys.deviation * noise;
      }
      redrawn.parent[static_cast<size_t>(i)] = parent;
    } else if (options.keys == KeyRule::fresh ||
               !draw_query(key, layer.queries, 2 * head + half, keys.length, stream, event.seed, i)) {
      draw_fresh(key, stream, event.seed, i);
    }
  }
  const Tensor dead = index_of(redrawn.dead), offset = at::scalar_tensor(head * n, at::kLong);
  parameter[head].index_copy_(0, dead, keys.values().index_select(0, dead).to(parameter.scalar_type()));
  forget.keys(parameter, dead + offset, index_of(keys.live) + offset);
  return redrawn;
}

// The newest date of a row's reads by any layer: step + 1, or 0.
int64_t last_touched(std::span<const CountedKeys> layers, int64_t row) {
  int64_t last = 0;
  for (const CountedKeys& layer : layers) {
    if (!layer.usage.empty()) last = std::max<int64_t>(last, layer.usage[static_cast<size_t>(row)].touched);
  }
  return last;
}

// The row of a pair, or -1.
int64_t row_of_pair(const CountedKeys& layer, int64_t rows, int64_t i, int64_t j) {
  const int64_t address = i * layer.keys2.size(1) + j;
  if (address >= rows && layer.addressing == RowAddressing::mask) return -1;
  return (address + layer.row_offset) % rows;
}

// Writes `values_of(rows [U])` [U, D] into these rows, a few megabytes at a time, and clears their state.
template <class Values>
void write_redrawn(RowStore& store, const ForgetState& forget, const std::vector<int64_t>& rows,
                   const Values& values_of) {
  constexpr int64_t kBytes = int64_t{4} << 20;
  const int64_t at_once = std::max<int64_t>(1, kBytes / (8 * store.width()));
  for (int64_t begin = 0; begin < std::ssize(rows); begin += at_once) {
    const std::vector<int64_t> part(rows.begin() + begin,
                                    rows.begin() + std::min<int64_t>(std::ssize(rows), begin + at_once));
    const Tensor index = index_of(part);
    const Tensor values = values_of(index).to(store.values().scalar_type());
    store.write_rows(index, [&] { Tensor(store.values()).index_copy_(0, index, values); });
    forget.rows(index);
  }
}

// Rows that the window did not read become as they start, or 0. What the window before did not read either is so
// already; so is what nothing ever read, unless it has to become 0.
int64_t refresh_rows(RowStore& store, std::span<const CountedKeys> layers, const ReinitialiseEvent& event,
                     const ReinitialiseOptions& options, const ForgetState& forget) {
  const double deviation = options.values == ValueRule::zero ? 0 : event.row_deviation;
  std::vector<int64_t> rows;
  for (int64_t row = 0; row < store.rows_here(); ++row) {
    const int64_t last = last_touched(layers, row);
    if (last <= event.begin && last > event.begin_before) rows.push_back(row);
  }
  const CounterRandom random(event.seed, fmt::format("reinitialise.{}.rows.{}", store.name(), event.number));
  write_redrawn(store, forget, rows, [&](const Tensor& index) {
    const int64_t width = store.width();
    Tensor values = at::empty({index.numel(), width}, at::kFloat);
    float* out = values.mutable_data_ptr<float>();
    for (int64_t u = 0; u < index.numel(); ++u) {
      const int64_t first = index.const_data_ptr<int64_t>()[u] * width;
      for (int64_t d = 0; d < width; ++d) {
        *out++ = deviation == 0 ? 0 : static_cast<float>(deviation * random.normal(static_cast<uint64_t>(first + d)));
      }
    }
    return values;
  });
  return std::ssize(rows);
}

// Unread rows of redrawn sub-keys become copies: by the first layer and head that redrew one of their sub-keys.
int64_t copy_rows(RowStore& store, std::span<const CountedKeys> layers,
                  const std::vector<std::vector<RedrawnHalf>>& redrawn, const ReinitialiseEvent& event,
                  const ForgetState& forget) {
  const int64_t all = store.rows_here();
  std::vector<int64_t> source(static_cast<size_t>(all), -1);
  const auto copy = [&](const CountedKeys& layer, int64_t i, int64_t j, int64_t from_i, int64_t from_j) {
    const int64_t row = row_of_pair(layer, all, i, j), from = row_of_pair(layer, all, from_i, from_j);
    if (row < 0 || from < 0 || source[static_cast<size_t>(row)] >= 0) return;
    if (last_touched(layers, row) <= event.begin) source[static_cast<size_t>(row)] = from;
  };
  for (size_t l = 0; l < layers.size(); ++l) {
    const CountedKeys& layer = layers[l];
    for (size_t h = 0; h < static_cast<size_t>(layer.keys1.size(0)); ++h) {
      const RedrawnHalf &first = redrawn[l][2 * h], &second = redrawn[l][2 * h + 1];
      for (const int64_t i : first.dead) {
        for (int64_t j = 0; j < layer.keys2.size(1); ++j) {
          copy(layer, i, j, first.parent[static_cast<size_t>(i)], second.parent[static_cast<size_t>(j)]);
        }
      }
      for (const int64_t j : second.dead) {
        for (int64_t i = 0; i < layer.keys1.size(1); ++i) {
          copy(layer, i, j, first.parent[static_cast<size_t>(i)], second.parent[static_cast<size_t>(j)]);
        }
      }
    }
  }
  std::vector<int64_t> rows, from;
  for (int64_t row = 0; row < all; ++row) {
    if (source[static_cast<size_t>(row)] < 0) continue;
    rows.push_back(row);
    from.push_back(source[static_cast<size_t>(row)]);
  }
  const Tensor values = store.values().detach().index_select(0, index_of(from));  // as they were before the event
  int64_t written = 0;
  write_redrawn(store, forget, rows, [&](const Tensor& index) {
    const Tensor part = values.narrow(0, written, index.numel());
    written += index.numel();
    return part;
  });
  return std::ssize(rows);
}

}  // namespace

const std::vector<std::pair<std::string, KeyRule>>& key_rule_words() {
  static const std::vector<std::pair<std::string, KeyRule>> words = {
      {"query", KeyRule::query}, {"split", KeyRule::split}, {"fresh", KeyRule::fresh}};
  return words;
}

const std::vector<std::pair<std::string, ValueRule>>& value_rule_words() {
  static const std::vector<std::pair<std::string, ValueRule>> words = {
      {"fresh", ValueRule::fresh}, {"copy", ValueRule::copy}, {"zero", ValueRule::zero}, {"keep", ValueRule::keep}};
  return words;
}

void ReinitialiseOptions::fields(ConfigFields& f) {
  f.choice<KeyRule>("keys", keys, "what dead sub-keys become: queries of the window, copies of live ones, a new start",
                    key_rule_words());
  f.when(keys == KeyRule::split, "reinitialise.keys is \"split\"", [&] {
    f.field("noise", noise, "deviation that is added to a copy, as a share of that of the live sub-keys",
            {.minimum = 0});
  });
  f.choice<ValueRule>("values", values, "what unread rows become: a new start, copies (with split), 0, or as they are",
                      value_rule_words());
  f.field("window", window, "steps from one event to the next", {.minimum = 1, .maximum = int64_t{1} << 30});
  f.field("dead_below", dead_below, "a sub-key is dead below this share of an even part of the reads",
          {.minimum = 0, .maximum = 1});
  f.field("most_redrawn", most_redrawn, "share of a half's sub-keys that an event redraws at most",
          {.minimum = 0, .maximum = 1});
  f.field("until", until, "share of all steps after which nothing is drawn anew", {.minimum = 0, .maximum = 1});
}

void ReinitialiseOptions::check(const std::string& section) const {
  if (values == ValueRule::copy && keys != KeyRule::split) {
    fail(ExitCode::usage, "model", fmt::format("{0}.keys must be \"split\" where {0}.values is \"copy\"", section),
         keys == KeyRule::query ? "\"query\"" : "\"fresh\"");
  }
}

std::vector<int64_t> dead_sub_keys(std::span<const int64_t> counts, double dead_below, double most_redrawn) {
  const double least = least_live_count(counts, dead_below);
  std::vector<int64_t> dead;
  for (size_t i = 0; i < counts.size(); ++i) {
    if (static_cast<double>(counts[i]) < least) dead.push_back(static_cast<int64_t>(i));
  }
  std::ranges::stable_sort(dead, {}, [&](int64_t i) { return counts[static_cast<size_t>(i)]; });
  const auto most = static_cast<size_t>(most_redrawn * static_cast<double>(counts.size()));
  if (dead.size() > most) dead.resize(most);
  return dead;
}

Reinitialised reinitialise(RowStore& table, std::span<const CountedKeys> layers, const ReinitialiseEvent& event,
                           const ReinitialiseOptions& options, const ForgetState& forget) {
  const at::NoGradGuard no_gradient;
  Reinitialised result;
  std::vector<std::vector<RedrawnHalf>> redrawn;
  for (const CountedKeys& layer : layers) {
    if (options.keys == KeyRule::query && !layer.queries.defined()) {
      fail(ExitCode::bug, "reinitialise", "queries must be sampled for the rule query", "none");
    }
    redrawn.emplace_back();
    result.redrawn.push_back(0);
    for (int64_t h = 0; h < layer.keys1.size(0); ++h) {
      for (const int64_t half : {0, 1}) {
        redrawn.back().push_back(redraw_half(layer, h, half, event, options, forget));
        result.redrawn.back() += std::ssize(redrawn.back().back().dead);
      }
    }
  }
  if (options.values == ValueRule::copy) {
    result.refreshed = copy_rows(table, layers, redrawn, event, forget);
  } else if (options.values != ValueRule::keep) {
    result.refreshed = refresh_rows(table, layers, event, options, forget);
  }
  return result;
}

Reinitialised reinitialise(std::span<const CountedLayer> layers, const ReinitialiseEvent& event,
                           const ReinitialiseOptions& options, OptimizerSet& optimizers) {
  std::vector<CountedKeys> counted;
  for (const CountedLayer& layer : layers) {
    const ProductKeyMemory& memory = *layer.memory;
    counted.push_back(
        {layer.name, memory.keys1, memory.keys2, memory.addressing(), memory.options().row_offset,
         layer.sub_keys->state(), layer.usage->all(),
         layer.queries != nullptr ? layer.queries->queries().narrow(0, 0, layer.queries->size()) : Tensor()});
  }
  Table& table = *layers.front().memory->table();
  RowOptimizer& rows = optimizers.rows_of(table);
  return reinitialise(
      table.store(), counted, event, options,
      {[&](const Tensor& keys, const Tensor& dead, const Tensor& live) { optimizers.clear_rows(keys, dead, live); },
       [&](const Tensor& row) { rows.clear_state(row); }});
}

}  // namespace loci
