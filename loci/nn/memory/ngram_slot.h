// An n-gram memory's slot in a model: where it stands, how many rows, where they live, how fast they learn.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "loci/nn/memory/memory_slot.h"
#include "loci/nn/memory/ngram_memory.h"

namespace loci {

// At chosen layers, or once with the token embedding.
enum class NgramPlace { layer, embedding };

// [model.ngram]
struct NgramOptions : TableOptions {
  NgramPlace at = NgramPlace::layer;
  std::vector<int64_t> layers = {-1};  // 0-based; negative counts from the end; a table each
  double rate = 1;                     // times table_optimizer.learning_rate, for these rows
  NgramMemoryOptions layer;            // its fields stand directly in [model.ngram]
  void fields(ConfigFields& f);

  // The width of a row: the model's, or for gate about the model's over the columns.
  int64_t resolved_value_width(int64_t width, int64_t vocabulary) const;
  // Numbers of the layers with an n-gram memory, ascending; none with place embedding. Throws Error (usage).
  std::vector<int64_t> layers_of(int64_t model_layers) const;
  int64_t tables_in(int64_t model_layers) const;
};

// Throws Error (usage) for options that do not fit each other or a model of this width, vocabulary and number of
// layers.
void check_ngram(const NgramOptions& options, int64_t width, int64_t vocabulary, int64_t model_layers);

// What one n-gram memory in such a model has, before anything is allocated.
MemoryCounts count_ngram(const NgramOptions& options, int64_t width, int64_t vocabulary);

// The n-gram memory whose names begin with `prefix` ("layers.3.", or empty at the embedding). Its table, of zeros,
// comes from `make` and is added to `tables`.
std::shared_ptr<NgramMemory> make_ngram(const NgramOptions& options, const std::string& prefix, int64_t width,
                                        int64_t vocabulary, uint64_t seed, const TableMaker& make,
                                        std::vector<TablePtr>& tables);

}  // namespace loci
