#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <string>
#include <utility>

#include "loci/base/check.h"
#include "loci/models/transformer_lm.h"
#include "tests/small_model.h"

namespace loci {
namespace {

TEST(TransformerLmOptions, CountsParametersWithoutMakingThem) {
  std::vector<TransformerLmOptions> all = {small_model()};
  for (const MemoryPlacement placement : kPlacements) {
    all.push_back(small_model_with_memory(placement));
    all.push_back(small_model_with_memory(placement, [](auto& o) {
      o.memory.layers = {0, 1};
      o.memory.shared_table = true;
      o.memory.value_width = 9;
      o.memory.layer.output = OutputMap::swilu;
      o.memory.layer.query_norm = QueryNorm::batch;
      o.memory.layer.normalise_keys = true;
      o.memory.layer.query_hidden = {5, 6};
    }));
    all.push_back(small_model_with_memory(placement, [](auto& o) { o.memory.layer.query_norm = QueryNorm::center; }));
    all.push_back(small_model_with_memory(placement, [](auto& o) {
      o.memory.kind = MemoryKind::flat;
      o.memory.layer.query_norm = QueryNorm::rms;
    }));
    all.push_back(small_model_with_memory(placement, [](auto& o) {
      o.memory.layers = {0, 1};
      o.memory.kind = MemoryKind::peer;
      o.memory.value_width = 9;
      o.memory.layer.output = OutputMap::projection;
    }));
  }
  for (const TransformerLmOptions& options : all) {
    TransformerLm model(options, 1);
    int64_t dense = 0, rows = 0;
    for (const auto& p : model.dense_parameters()) dense += p.value.numel();
    for (const auto& table : model.tables()) rows += table->rows() * table->width();
    EXPECT_EQ(TransformerLm::count_parameters(options), std::make_pair(dense, rows));
  }
  TransformerLmOptions absurd = small_model_with_memory(MemoryPlacement::parallel);
  absurd.memory.rows = int64_t{1} << 60;
  EXPECT_THROW(TransformerLm::count_parameters(absurd), Error);
}

TEST(TransformerLmOptions, ImpossibleOptionsAreRefused) {
  const std::vector<std::pair<std::string, std::function<void(TransformerLmOptions&)>>> bad = {
      {"vocabulary", [](auto& o) { o.vocabulary = 0; }},
      {"width", [](auto& o) { o.width = 6; }},
      {"context", [](auto& o) { o.context = 0; }},
      {"ngram must be absent where causal is false",
       [](auto& o) {
         o.causal = false;
         o.has_ngram = true;
       }},
      {"dropout", [](auto& o) { o.dropout = 1; }},
      {"memory.layers", [](auto& o) { o.memory.layers = {}; }},
      {"memory.layers", [](auto& o) { o.memory.layers = {2}; }},
      {"memory.layers", [](auto& o) { o.memory.layers = {1, -1}; }},
      {"memory.value_dtype", [](auto& o) { o.memory.value_dtype = "int3"; }},
      {"memory.width", [](auto& o) { o.memory.layer.width = 8; }},
      {"zero_output", [](auto& o) { o.memory.start = MemoryStart::zero_output; }},
      {"zero_output",
       [](auto& o) {
         o.memory.start = MemoryStart::zero_output, o.memory.calibrate_at = 3;
         o.memory.layer.output = OutputMap::projection;
       }},
      {"calibrate_at", [](auto& o) { o.memory.calibrate_at = 3, o.memory.kind = MemoryKind::flat; }},
      {"calibrate_at", [](auto& o) { o.memory.calibrate_at = 3, o.memory.layer.query_hidden = {4}; }},
      {"addressing",
       [](auto& o) { o.memory.kind = MemoryKind::flat, o.memory.layer.addressing = RowAddressing::modulo; }},
      {"memory.value_width", [](auto& o) { o.memory.value_width = 5; }},
  };
  for (const auto& [word, change] : bad) {
    try {
      TransformerLm(small_model_with_memory(MemoryPlacement::parallel, change), 1);
      ADD_FAILURE() << word << " was accepted";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ExitCode::usage);
      EXPECT_THAT(error.what(), testing::HasSubstr(word));
    }
  }
}

}  // namespace
}  // namespace loci
