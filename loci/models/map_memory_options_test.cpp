#include "loci/models/map_memory_options.h"

#include <gtest/gtest.h>

#include "loci/base/check.h"
#include "tests/temporary_folder.h"

namespace loci {
namespace {

MapMemoryOptions odd_options() {
  MapMemoryOptions options;
  options.rows = 30;
  options.heads = 3;
  options.top_k = 5;
  options.key_width = 6;
  options.query_kernels = {3, 1};
  options.query_hidden = {7};
  options.query_norm = QueryNorm::center;
  options.weight = WeightFunction::sigmoid;
  return options;
}

TEST(MapMemoryOptionsTest, TheMapHasWhatTheOptionsSay) {
  const MapMemoryOptions options = odd_options();
  const auto map = options.make_map("m", /*channels=*/4, /*dimensions=*/2, /*width=*/9, 1, make_local_table);
  const MemoryMapOptions& made = map->options();
  EXPECT_EQ(made.width, 4);
  EXPECT_EQ(made.dimensions, 2);
  EXPECT_EQ(made.heads, 3);
  EXPECT_EQ(made.top_k, 5);
  EXPECT_EQ(made.key_width, 6);
  EXPECT_EQ(made.query_kernels, (std::vector<int64_t>{3, 1}));
  EXPECT_EQ(made.query_hidden, (std::vector<int64_t>{7}));
  EXPECT_EQ(made.query_norm, QueryNorm::center);
  EXPECT_EQ(made.weight, WeightFunction::sigmoid);
  EXPECT_EQ(map->memory->table()->rows(), 30);
  EXPECT_EQ(map->memory->table()->width(), 9);
  EXPECT_EQ(map->memory->table()->name(), "m.values");
}

TEST(MapMemoryOptionsTest, ParametersAreThoseOfTheMap) {
  for (const QueryNorm norm :
       {QueryNorm::none, QueryNorm::layer, QueryNorm::rms, QueryNorm::batch, QueryNorm::center}) {
    MapMemoryOptions options = odd_options();
    options.query_norm = norm;
    int64_t count = 0;
    for (const auto& parameter : options.make_map("m", 4, 2, 9, 1, make_local_table)->parameters()) {
      count += parameter.numel();
    }
    EXPECT_EQ(options.parameters(4), count) << word_of(norm);
  }
}

TEST(MapMemoryOptionsTest, FrozenKeysHaveNoGradient) {
  MapMemoryOptions options = odd_options();
  for (const bool frozen : {false, true}) {
    options.frozen_keys = frozen;
    const auto map = options.make_map("m", 4, 2, 9, 1, make_local_table);
    EXPECT_EQ(map->memory->keys1.requires_grad(), !frozen);
    EXPECT_EQ(map->memory->keys2.requires_grad(), !frozen);
  }
}

TEST(MapMemoryOptionsTest, RefusesWhatDoesNotFit) {
  const auto refused = [](const char* message, auto change) {
    MapMemoryOptions options = odd_options();
    change(options);
    expect_error(ExitCode::usage, message, [&] { options.check(); });
  };
  refused("memory.top_k must be at most memory.rows = 30, got 31", [](auto& o) { o.top_k = 31; });
  refused("memory.key_width must be even, got 7", [](auto& o) { o.key_width = 7; });
  refused("memory.query_kernels must be odd, got 2", [](auto& o) { o.query_kernels = {2, 1}; });
  refused("memory.query_kernels must be one more than the 0 query_hidden, got 2", [](auto& o) { o.query_hidden = {}; });
  refused("memory.frozen_keys must be false with [model.memory.reinitialise], got true",
          [](auto& o) { o.frozen_keys = o.has_reinitialise = true; });
}

}  // namespace
}  // namespace loci
