// Sub-keys that hardly any query finds are drawn anew, and rows that nothing reads (the re-initialisation of Karimov et
// al. 2021, "CNN with large memory layers"; the rules are ours: only the abstract is known to us).
//
// Legend: H heads, n1, n2 sub-keys of the halves, w half a key's width, N rows.
//
// At the end of each window of steps, for each head and half:
//   dead = {i: u[i] < dead_below * mean(u)}, least used first, at most most_redrawn of all   u: reads of a sub-key
//   query:  key[i] = a half-query of the window, as long as the live keys are on average
//   split:  key[i] = a live key drawn with p ~ u, plus N(0, (noise * std of the live keys)^2)
//   fresh:  key[i] = U(-1/sqrt(w), 1/sqrt(w)), as keys start
// and of the table, for the rows that no head of any of its layers read in the window:
//   fresh, zero:  the row as it starts, or 0, if it was read before
//   copy:         (split alone) the row of the pair with the parent in a redrawn sub-key's place; where two heads would
//                 copy into a row, the first does
//   keep:         the row as it is
//
// Redrawn keys and rows lose their optimiser state: a row its moments and count; a key its first moment, while its
// second becomes the mean of the live keys', since the count of updates is the whole parameter's.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "loci/base/config_fields.h"
#include "loci/nn/memory/query_reservoir.h"
#include "loci/nn/memory/sub_key_counts.h"
#include "loci/optim/optimizer_set.h"
#include "loci/table/usage.h"

namespace loci {

enum class KeyRule { query, split, fresh };
enum class ValueRule { fresh, copy, zero, keep };
// The rules with the words that configurations and messages call them by.
const std::vector<std::pair<std::string, KeyRule>>& key_rule_words();
const std::vector<std::pair<std::string, ValueRule>>& value_rule_words();

struct ReinitialiseOptions {
  KeyRule keys = KeyRule::query;
  ValueRule values = ValueRule::fresh;
  int64_t window = 200;  // steps
  double dead_below = kDeadShare;
  double most_redrawn = 0.25;  // of a half's sub-keys, in one event
  double until = 0.7;          // of all steps; none after
  double noise = 0.1;          // split
  void fields(ConfigFields& f);
  void check(const std::string& section) const;  // throws Error (usage)
};

// A memory with what was counted of it in the window.
struct CountedLayer {
  std::string name;  // of its random numbers
  ProductKeyMemory* memory = nullptr;
  const SubKeyCounts* sub_keys = nullptr;   // of the window
  const Usage* usage = nullptr;             // of the dates of reads alone
  const QueryReservoir* queries = nullptr;  // of the window, for the rule query
};

struct ReinitialiseEvent {
  int64_t number = 0;        // of the window, from 0
  int64_t begin = 0;         // first step of the window
  int64_t begin_before = 0;  // of the window before, whose event has drawn what was unused then; 0: there was none
  uint64_t seed = 0;
  double row_deviation = 0;  // rows start as N(0, row_deviation^2)
};

struct Reinitialised {
  std::vector<int64_t> redrawn;  // sub-keys, by layer
  int64_t refreshed = 0;         // rows
};

// Sub-keys to redraw by their counts, least used first; of equals the first.
std::vector<int64_t> dead_sub_keys(std::span<const int64_t> counts, double dead_below, double most_redrawn);

// One event, of all the layers that share a table. What is drawn depends on counts, dates, the sampled queries and
// (seed, layer, head, half, event, index) alone: same bits for any thread count. Writes the redrawn rows alone.
Reinitialised reinitialise(std::span<const CountedLayer> layers, const ReinitialiseEvent& event,
                           const ReinitialiseOptions& options, OptimizerSet& optimizers);

// The same for memories that are not modules of C++, and with optimisers of any kind (Python's loci.Reinitialise).
struct CountedKeys {
  std::string name;
  at::Tensor keys1, keys2;  // [H, n1, w], [H, n2, w], of any floating type
  RowAddressing addressing = RowAddressing::mask;
  int64_t row_offset = 0;
  at::Tensor sub_keys;              // [H, n1 + n2], as of count_sub_keys()
  std::span<const RowUsage> usage;  // of each row, or empty: nothing was read
  at::Tensor queries;               // [U, H, 2, w] float32, of the window; undefined for other rules than query
};
struct ForgetState {
  // Of keys `dead` [U], numbered head * n + i, of a tensor of keys; `live` [V] are the others of their head.
  std::function<void(const at::Tensor& keys, const at::Tensor& dead, const at::Tensor& live)> keys;
  std::function<void(const at::Tensor& row)> rows;  // [U] int64
};
Reinitialised reinitialise(RowStore& table, std::span<const CountedKeys> layers, const ReinitialiseEvent& event,
                           const ReinitialiseOptions& options, const ForgetState& forget);

}  // namespace loci
