// N-gram memories in the language model.
//
// Legend: B batch, L positions, d width, V vocabulary, K columns.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <functional>
#include <map>
#include <string>

#include "loci/base/check.h"
#include "loci/base/random.h"
#include "loci/models/generate.h"
#include "loci/models/transformer_lm.h"
#include "loci/table/row_store.h"
#include "tests/module_state.h"
#include "tests/op_harness.h"
#include "tests/small_model.h"

namespace loci::transformer_lm_ngram_test {
namespace {

using at::Tensor;

constexpr int64_t kVocabulary = 23, kEnd = 5;  // the vocabulary of small_model()

using Change = std::function<void(TransformerLmOptions&)>;

TransformerLmOptions plain() {
  return small_model([](auto& o) { o.end_of_text = kEnd, o.context = 14; });
}

TransformerLmOptions with_ngrams(const Change& change) {
  TransformerLmOptions options = plain();
  options.has_ngram = true;
  options.ngram.rows = 200;
  change(options);
  return options;
}

void add_memory(TransformerLmOptions& o) {
  o.has_memory = true;
  o.memory.layers = {0, -1};
}

const std::map<std::string, Change> kKinds = {{"sum", [](auto&) {}},
                                              {"sum at the embedding",
                                               [](auto& o) {
                                                 o.ngram.at = NgramPlace::embedding;
                                                 o.ngram.layer.orders = {2, 4};
                                                 o.ngram.layer.hash_heads = 2;
                                               }},
                                              {"gate",
                                               [](auto& o) {
                                                 o.ngram.layer.injection = NgramInjection::gate;
                                                 o.ngram.layers = {0, 1};
                                               }},
                                              {"gate with a convolution",
                                               [](auto& o) {
                                                 o.ngram.layer.injection = NgramInjection::gate;
                                                 o.ngram.layer.convolution = true;
                                                 o.ngram.layer.orders = {2, 3};
                                               }},
                                              {"row",
                                               [](auto& o) {
                                                 o.ngram.layer.injection = NgramInjection::row;
                                                 o.ngram.layer.orders = {1};
                                                 o.ngram.layers = {0, 1};
                                                 o.ngram.value_width = 7;
                                               }},
                                              {"sum and a searched memory", add_memory},
                                              {"gate and a searched memory", [](auto& o) {
                                                 add_memory(o);
                                                 o.memory.placement = MemoryPlacement::after;
                                                 o.ngram.layer.injection = NgramInjection::gate;
                                               }}};

// Rows and convolution that are not zero, so that what is read shows.
void fill(TransformerLm& model) {
  const torch::NoGradGuard guard;
  for (const TablePtr& table : model.tables()) table->store().initialise_normal(5, 0.5);
  for (const auto& p : model.named_parameters()) {
    if (p.key().ends_with("convolution_weight")) Tensor(p.value()).normal_();
  }
}

TEST(TransformerLmNgram, InsertedIntoATrainedModelItLeavesTheOutputBitIdentical) {
  TransformerLm base(plain(), 1);
  const Tensor tokens = some_tokens(3, 12);
  for (const auto& [name, change] : kKinds) {
    SCOPED_TRACE(name);
    TransformerLmOptions options = with_ngrams(change);
    options.memory.start = MemoryStart::zero_values;
    TransformerLm model(options, 99);
    EXPECT_FALSE(torch::equal(model.forward(tokens), base.forward(tokens)));
    model.load(state_of(base));
    EXPECT_TRUE(torch::equal(model.forward(tokens), base.forward(tokens)));
    EXPECT_TRUE(torch::equal(model.loss(tokens, tokens), base.loss(tokens, tokens)));
  }
}

TEST(TransformerLmNgram, TheRowsMoveFirst) {
  const Tensor tokens = some_tokens(3, 12);
  for (const auto& [name, change] : kKinds) {
    SCOPED_TRACE(name);
    TransformerLm model(with_ngrams(change), 1);
    model.loss(tokens.narrow(1, 0, 11), tokens.narrow(1, 1, 11)).backward();
    for (const auto& [layer, ngram] : model.ngrams()) {
      EXPECT_GT(ngram->table()->store().references().sum().gradient.abs().max().item<double>(), 0) << layer;
    }
  }
}

TEST(TransformerLmNgram, CacheGivesTheLogitsOfTheFullForward) {
  for (const auto& [name, change] : kKinds) {
    SCOPED_TRACE(name);
    TransformerLm model(with_ngrams(change), 1);
    fill(model);
    model.to(at::kDouble);
    model.eval();
    const torch::NoGradGuard guard;
    const Tensor tokens = some_tokens(2, 14);
    tokens[0][3] = tokens[0][9] = tokens[1][4] = kEnd;  // documents end before, at and within the cuts
    const Tensor full = model.forward(tokens);
    KeyValueCache cache;
    std::vector<Tensor> parts;
    int64_t begin = 0;
    for (const int64_t count : {4, 1, 1, 5, 1, 2}) {
      parts.push_back(model.forward(tokens.narrow(1, begin, count), &cache));
      begin += count;
    }
    EXPECT_TRUE(torch::allclose(at::cat(parts, 1), full, 1e-9, 1e-11));
  }
}

TEST(TransformerLmNgram, GenerationBeyondTheContextReadsWhatAFullPassReads) {
  TransformerLm model(with_ngrams([](auto&) {}), 1);
  fill(model);
  std::vector<int64_t> text = {kEnd, 3, 4};
  generate(model, text, {.tokens = 30, .temperature = 0}, [&](int64_t token) {
    text.push_back(token);
    return true;
  });
  ASSERT_EQ(text.size(), 33u);
  // Full at 14 positions, it goes on from the last 7: the 15th token is the first of such a pass.
  const std::vector<int64_t> last(text.begin() + 8, text.begin() + 15);
  const Tensor logits = model.forward(torch::tensor(last, at::kLong).unsqueeze(0));
  EXPECT_EQ(logits[0][-1].argmax().item<int64_t>(), text[15]);
}

TEST(TransformerLmNgram, ALaterTokenDoesNotChangeEarlierLogits) {
  for (const auto& [name, change] : kKinds) {
    SCOPED_TRACE(name);
    TransformerLm model(with_ngrams(change), 1);
    fill(model);
    const Tensor tokens = some_tokens(1, 12);
    Tensor changed = tokens.clone();
    changed[0][8] = (changed[0][8] + 1) % kVocabulary;
    const Tensor a = model.forward(tokens), b = model.forward(changed);
    EXPECT_TRUE(torch::equal(a.narrow(1, 0, 8), b.narrow(1, 0, 8)));
    EXPECT_FALSE(torch::equal(a.narrow(1, 8, 4), b.narrow(1, 8, 4)));
  }
}

TEST(TransformerLmNgram, RowsDoNotReachBackBeyondTheEndOfADocument) {
  TransformerLm model(with_ngrams([](auto&) {}), 1);
  const std::vector<int64_t> two = {1, 2, kEnd, 7, 8, 9, 3, 4, kEnd, 7, 8, 9};
  Tensor tokens = torch::tensor(two, at::kLong).view({2, 6});
  const Tensor rows = model.ngram_rows(tokens).at(0);
  ASSERT_EQ(rows.sizes(), (std::vector<int64_t>{2, 6, 3}));
  EXPECT_TRUE(torch::equal(rows[0].narrow(0, 3, 3), rows[1].narrow(0, 3, 3)));
  EXPECT_FALSE(torch::equal(rows[0][2], rows[1][2]));
  EXPECT_FALSE(torch::equal(rows[0][5], rows[0][4]));
  tokens[1][2] = kEnd + 1;
  EXPECT_FALSE(torch::equal(model.ngram_rows(tokens).at(0)[1][3], rows[0][3]));
}

TEST(TransformerLmNgram, ParametersAndTablesAreCountedWithoutMakingThem) {
  for (const auto& [name, change] : kKinds) {
    SCOPED_TRACE(name);
    const TransformerLmOptions options = with_ngrams(change);
    TransformerLm model(options, 1);
    int64_t dense = 0, rows = 0;
    for (const auto& p : model.dense_parameters()) dense += p.value.numel();
    for (const auto& table : model.tables()) rows += table->rows() * table->width();
    EXPECT_EQ(TransformerLm::count_parameters(options), std::make_pair(dense, rows));
    EXPECT_EQ(model.tables().size(), model.ngrams().size() + model.memories().size());
  }
  TransformerLm model(with_ngrams(kKinds.at("sum at the embedding")), 1);
  EXPECT_EQ(model.ngrams().at(0).first, -1);
  EXPECT_EQ(model.tables().at(0)->name(), "ngram.values");
  TransformerLm gate(with_ngrams(kKinds.at("gate")), 1);
  EXPECT_EQ(gate.tables().at(1)->name(), "layers.1.ngram.values");
  EXPECT_EQ(gate.tables().at(1)->width(), 5);  // 16 over 3 columns
}

TEST(TransformerLmNgram, MemoriesThatShareATableDoNotShareThatOfTheNgrams) {
  TransformerLm model(with_ngrams([](auto& o) {
                        add_memory(o);
                        o.memory.kind = MemoryKind::peer;
                        o.memory.layers = {0, 1};
                        o.memory.shared_table = true;
                        o.ngram.at = NgramPlace::embedding;
                      }),
                      1);
  std::vector<std::string> names;
  for (const TablePtr& table : model.tables()) names.push_back(table->name());
  EXPECT_EQ(names, (std::vector<std::string>{"ngram.values", "memory.values", "memory.down"}));
  EXPECT_EQ(model.memories().at(0).second->table(), model.memories().at(1).second->table());
}

TEST(TransformerLmNgram, ImpossibleOptionsAreRefused) {
  const std::vector<std::pair<std::string, Change>> bad = {
      {"ngram.layers must name at least one layer", [](auto& o) { o.ngram.layers = {}; }},
      {"ngram.layers must be within -2 .. 1, got 2", [](auto& o) { o.ngram.layers = {2}; }},
      {"ngram.layers must name each layer once", [](auto& o) { o.ngram.layers = {1, -1}; }},
      {"ngram.value_dtype", [](auto& o) { o.ngram.value_dtype = "int3"; }},
      {"ngram.value_width must be 0 or the model's 16 for injection sum, got 5",
       [](auto& o) { o.ngram.value_width = 5; }},
      {"ngram.rate must be above 0", [](auto& o) { o.ngram.rate = 0; }},
      {"rows must hold a prime", [](auto& o) { o.ngram.rows = 4; }},
      {"ngram.injection must be sum for at embedding",
       [](auto& o) {
         o.ngram.at = NgramPlace::embedding;
         o.ngram.layer.injection = NgramInjection::gate;
       }},
      {"ngram.orders must be [1] with one hash head for injection row, got 3 rows a token",
       [](auto& o) { o.ngram.layer.injection = NgramInjection::row; }},
  };
  for (const auto& [word, change] : bad) {
    try {
      TransformerLm(with_ngrams(change), 1);
      ADD_FAILURE() << word << " was accepted";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ExitCode::usage);
      EXPECT_THAT(error.what(), testing::HasSubstr(word));
    }
  }
}

// Texts of 12 letters where two letters decide the next one: 144 trigrams, of which a layer of 16 with one head of
// attention has to learn the composition that a row of order 2 simply holds.
struct Trigrams {
  Tensor input, target;
};

Trigrams trigram_batch(uint64_t step) {
  constexpr int64_t letters = 12, batch = 8, length = 14;
  const CounterRandom rule(7, "rule"), draw(7, "draw");
  const Tensor tokens = at::empty({batch, length + 1}, at::kLong);
  auto* t = tokens.mutable_data_ptr<int64_t>();
  for (int64_t b = 0; b < batch; ++b, t += length + 1) {
    for (int64_t i = 0; i <= length; ++i) {
      const uint64_t position = (step * batch + static_cast<uint64_t>(b)) * (length + 1) + static_cast<uint64_t>(i);
      const bool drawn = i < 2 || draw.uniform(2 * position) < 0.2;
      const uint64_t at = drawn ? 0 : static_cast<uint64_t>(t[i - 2] * letters + t[i - 1]);
      t[i] = static_cast<int64_t>(drawn ? draw.below(2 * position + 1, letters) : rule.below(at, letters));
    }
  }
  return {tokens.narrow(1, 0, length), tokens.narrow(1, 1, length)};
}

double loss_after_training(const TransformerLmOptions& options, uint64_t seed) {
  TransformerLm model(options, seed);
  std::vector<std::pair<TablePtr, RowOptimizerOptions>> tables;
  RowOptimizerOptions rows;
  rows.learning_rate = 3e-2;
  for (const TablePtr& table : model.tables()) tables.emplace_back(table, rows);
  DenseOptimizerOptions dense;
  dense.learning_rate = 1e-2;
  OptimizerSet optimizers(model.dense_parameters(), dense, tables, seed);
  constexpr int64_t steps = 60;
  for (int64_t step = 0; step < steps; ++step) {
    const Trigrams batch = trigram_batch(static_cast<uint64_t>(step));
    model.loss(batch.input, batch.target).backward();
    optimizers.step(step, steps);
  }
  const torch::NoGradGuard guard;
  const Trigrams unseen = trigram_batch(10'000);
  return model.loss(unseen.input, unseen.target).item<double>();
}

TEST(TransformerLmNgram, LearnsTrigramsThatTheModelWithoutItHasNotLearned) {
  for (const uint64_t seed : {0, 1}) {
    const double without = loss_after_training(plain(), seed);
    const double with = loss_after_training(with_ngrams([](auto& o) { o.ngram.rows = 1024; }), seed);
    EXPECT_LT(with, without - 0.3) << seed << ": " << without;
  }
}

}  // namespace
}  // namespace loci::transformer_lm_ngram_test
