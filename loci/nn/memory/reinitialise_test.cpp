// Legend: H heads, n sub-keys of a half, w half a key's width, N rows, D their width.
#include "loci/nn/memory/reinitialise.h"

#include <ATen/Parallel.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <numeric>

#include "loci/table/row_store.h"
#include "tests/memory_cases.h"

namespace loci {
namespace {

using at::Tensor;
using testing::ElementsAre;
using testing::IsEmpty;

constexpr int64_t kSubKeys = 8, kRowsOfTable = kSubKeys * kSubKeys;

// A trained memory: 2 heads, 8 x 8 sub-keys, keys of 2 * 4, rows of 6, all with optimiser state. By default every
// sub-key was read 100 times and every row in step 10; the window begins at step 5.
struct TrainedMemory {
  explicit TrainedMemory(int64_t top_k = 2, int64_t heads = 2) {
    torch::manual_seed(1);
    const ProductKeyMemoryOptions options = small_memory([&](auto& o) {
      o.heads = heads, o.top_k = top_k;
      if (top_k == 1) o.weight = WeightFunction::sigmoid;
    });
    table = std::make_shared<LocalTable>("values", kRowsOfTable, 6);
    table->store().initialise_normal(1, 1);
    memory = std::make_shared<ProductKeyMemory>("memory", options, table, 7);
    optimizers =
        std::make_unique<OptimizerSet>(std::vector<NamedParameter>{{"keys1", memory->keys1}, {"keys2", memory->keys2}},
                                       DenseOptimizerOptions{.clip_norm = 0, .schedule = {}},
                                       std::vector<std::pair<TablePtr, RowOptimizerOptions>>{{table, {}}}, 1);
    for (int64_t step = 0; step < 3; ++step) {
      const Tensor row = at::arange(kRowsOfTable).view({1, -1});
      table->read(row, torch::randn({1, kRowsOfTable}), 0).sum().backward();
      for (const Tensor& keys : {memory->keys1, memory->keys2}) keys.mutable_grad() = torch::randn_like(keys);
      optimizers->step(step, 10);
    }
    counts = std::make_unique<SubKeyCounts>(*memory);
    counts->state().fill_(100);
    usage = std::make_unique<Usage>(kRowsOfTable);
    touch(10, [](int64_t) { return true; });
    queries = std::make_unique<QueryReservoir>(*memory, 5, "layer");
    queries->reads({{}, {}, {}, {}, {}, torch::randn({500, heads, 2, 4})});
  }
  // All rows lose their dates; those that `chosen` names were read in `step`.
  void touch(int32_t step, const std::function<bool(int64_t)>& chosen) const {
    for (int64_t row = 0; row < kRowsOfTable; ++row) {
      if (chosen(row)) usage->state()[row][2].fill_(step + 1);
    }
  }
  Tensor count_of(int64_t head, int64_t half) const {
    return counts->state()[head].narrow(0, half * kSubKeys, kSubKeys);
  }

  Reinitialised run(const ReinitialiseOptions& options,
                    const ReinitialiseEvent& event = {.begin = 5, .seed = 9}) const {
    const std::vector<CountedLayer> layers = {{"layer", memory.get(), counts.get(), usage.get(), queries.get()}};
    return reinitialise(layers, event, options, *optimizers);
  }
  std::vector<Tensor> all() const {
    std::vector<Tensor> tensors = {memory->keys1, memory->keys2, table->store().values()};
    for (const auto& [name, tensor] : optimizers->state()) tensors.push_back(tensor);
    for (Tensor& tensor : tensors) tensor = tensor.detach().clone();
    return tensors;
  }
  Tensor state(const std::string& name) const {
    for (const auto& [known, tensor] : optimizers->state()) {
      if (known == name) return tensor;
    }
    ADD_FAILURE() << name;
    return {};
  }

  std::shared_ptr<LocalTable> table;
  std::shared_ptr<ProductKeyMemory> memory;
  std::unique_ptr<OptimizerSet> optimizers;
  std::unique_ptr<SubKeyCounts> counts;
  std::unique_ptr<Usage> usage;
  std::unique_ptr<QueryReservoir> queries;
};

bool all_same_bits(const std::vector<Tensor>& a, const std::vector<Tensor>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                    [](const Tensor& x, const Tensor& y) { return x.equal(y); });
}

TEST(Reinitialise, TheDeadAreTheLeastUsedBelowTheBarUpToTheCap) {
  const std::vector<int64_t> counts = {0, 100, 9, 10, 300, 3, 0, 378};  // mean 100
  EXPECT_THAT(dead_sub_keys(counts, 0.1, 1), ElementsAre(0, 6, 5, 2));
  EXPECT_THAT(dead_sub_keys(counts, 0.1, 0.25), ElementsAre(0, 6));
  EXPECT_THAT(dead_sub_keys(counts, 0.1, 0.49), ElementsAre(0, 6, 5));
  EXPECT_THAT(dead_sub_keys(counts, 0.101, 1), ElementsAre(0, 6, 5, 2, 3));
  EXPECT_THAT(dead_sub_keys(counts, 0, 1), IsEmpty());
  EXPECT_THAT(dead_sub_keys(std::vector<int64_t>(8, 0), 0.1, 1), IsEmpty());  // nothing was read
}

TEST(Reinitialise, NothingDeadChangesNothing) {
  for (const KeyRule keys : {KeyRule::query, KeyRule::split, KeyRule::fresh}) {
    const TrainedMemory trained;
    const auto before = trained.all();
    const Reinitialised done = trained.run({.keys = keys});
    EXPECT_THAT(done.redrawn, ElementsAre(0));
    EXPECT_EQ(done.refreshed, 0);
    EXPECT_TRUE(all_same_bits(trained.all(), before));
  }
}

// Sub-keys 2 and 5 of head 0, first half; 7 of head 1, second half, whose count is just below the bar.
TEST(Reinitialise, RedrawsExactlyTheDeadByTheirRule) {
  for (const KeyRule rule : {KeyRule::query, KeyRule::split, KeyRule::fresh}) {
    const TrainedMemory trained;
    trained.count_of(0, 0).index_fill_(0, torch::tensor({2, 5}), 0);
    trained.count_of(1, 1).index_fill_(0, torch::tensor({7}), 8);
    const std::array<Tensor, 2> before = {trained.memory->keys1.detach().clone(),
                                          trained.memory->keys2.detach().clone()};
    const std::array<Tensor, 2> second = {trained.state("dense.keys1.moment2").clone(),
                                          trained.state("dense.keys2.moment2").clone()};
    EXPECT_THAT(trained.run({.keys = rule}).redrawn, ElementsAre(3));
    for (size_t half = 0; half < 2; ++half) {
      const Tensor keys = (half == 0 ? trained.memory->keys1 : trained.memory->keys2).detach();
      const Tensor moment1 = trained.state(half == 0 ? "dense.keys1.moment1" : "dense.keys2.moment1");
      const Tensor moment2 = trained.state(half == 0 ? "dense.keys1.moment2" : "dense.keys2.moment2");
      for (int64_t h = 0; h < 2; ++h) {
        std::vector<int64_t> dead, live;
        for (int64_t i = 0; i < kSubKeys; ++i) {
          const bool is_dead = (h == 0 && half == 0 && (i == 2 || i == 5)) || (h == 1 && half == 1 && i == 7);
          (is_dead ? dead : live).push_back(i);
          EXPECT_EQ(keys[h][i].equal(before[half][h][i]), !is_dead) << half << h << i;
          EXPECT_EQ(moment1[h][i].count_nonzero().item<int64_t>() == 0, is_dead);
          EXPECT_TRUE(is_dead || moment2[h][i].equal(second[half][h][i]));
        }
        const Tensor alive = before[half][h].index_select(0, torch::tensor(live, at::kLong));
        for (const int64_t i : dead) {
          const Tensor mean = second[half][h].index_select(0, torch::tensor(live, at::kLong)).mean(0);
          EXPECT_TRUE(torch::allclose(moment2[h][i], mean, 1e-5, 0));
          const Tensor key = keys[h][i];
          if (rule == KeyRule::query) {
            const Tensor sampled =
                trained.queries->queries().slice(0, 0, 500).select(1, h).select(1, static_cast<int64_t>(half));
            const Tensor cosine = at::mv(sampled, key) / sampled.norm(2, 1) / key.norm();
            EXPECT_NEAR(cosine.max().item<double>(), 1, 1e-5);
            EXPECT_NEAR(key.norm().item<double>(), alive.norm(2, 1).mean().item<double>(), 1e-5);
          } else if (rule == KeyRule::split) {
            // A parent within six deviations of the noise in each coordinate.
            const double reach = 6 * 0.1 * alive.std().item<double>();
            EXPECT_LT(((alive - key).abs().amax(1)).min().item<double>(), reach);
            EXPECT_GT(((alive - key).abs().amax(1)).min().item<double>(), 0);
          } else {
            EXPECT_LE(key.abs().max().item<double>(), 0.5);  // 1 / sqrt(w)
            EXPECT_GT(key.abs().max().item<double>(), 0.05);
          }
        }
      }
    }
    if (rule == KeyRule::query) {  // drawn without repetition
      const Tensor unit = trained.memory->keys1.detach()[0] / trained.memory->keys1.detach()[0].norm(2, 1, true);
      EXPECT_LT((unit[2] * unit[5]).sum().item<double>(), 0.9999);
    }
  }
}

TEST(Reinitialise, LiveKeysAreThoseAboveTheBarWhateverTheCap) {
  const TrainedMemory trained;
  {
    const torch::NoGradGuard guard;
    trained.count_of(0, 0).narrow(0, 2, 6).zero_();
    trained.memory->keys1[0].narrow(0, 2, 6).zero_();
  }
  const double length = trained.memory->keys1.detach()[0].narrow(0, 0, 2).norm(2, 1).mean().item<double>();
  EXPECT_THAT(trained.run({.keys = KeyRule::query}).redrawn, ElementsAre(2));
  const Tensor keys = trained.memory->keys1.detach()[0];
  for (int64_t i = 0; i < kSubKeys; ++i) {
    if (i < 2) continue;
    EXPECT_NEAR(keys[i].norm().item<double>(), i < 4 ? length : 0, 1e-5) << i;
  }
}

// What nothing ever read is as it starts and is not written, in the first event too.
TEST(Reinitialise, RowsThatWereNeverReadStayAsTheyStart) {
  for (const ValueRule rule : {ValueRule::fresh, ValueRule::zero}) {
    const TrainedMemory trained;
    trained.usage->state().slice(0, 0, 20).zero_();
    const auto before = trained.all();
    trained.table->store().clear_changed_rows();
    EXPECT_EQ(trained.run({.values = rule}, {.number = 0, .begin = 5, .row_deviation = 0.5}).refreshed, 0);
    EXPECT_TRUE(trained.table->store().changed_rows().rows().empty());
    EXPECT_TRUE(trained.table->store().values().equal(before[2]));
  }
}

// Rows 0 .. 9 were read before the window alone, rows 10 .. 19 never, the others in it.
TEST(Reinitialise, RowsThatTheWindowDidNotReadBeginAnewOnce) {
  for (const ValueRule rule : {ValueRule::fresh, ValueRule::zero, ValueRule::keep}) {
    const TrainedMemory trained;
    trained.usage->state().slice(0, 0, 20).zero_();
    trained.touch(2, [](int64_t row) { return row < 10; });
    const auto before = trained.all();
    RowStore& store = trained.table->store();
    store.clear_changed_rows();
    const ReinitialiseEvent event{.number = 1, .begin = 5, .begin_before = 1, .seed = 9, .row_deviation = 0.5};
    const int64_t refreshed = trained.run({.values = rule}, event).refreshed;
    EXPECT_EQ(refreshed, rule == ValueRule::keep ? 0 : 10);
    std::vector<int64_t> expected(static_cast<size_t>(refreshed));
    std::iota(expected.begin(), expected.end(), 0);
    EXPECT_EQ(store.changed_rows().rows(), expected);
    const Tensor values = store.values().detach(), count = trained.state("table.values.count");
    for (int64_t row = 0; row < kRowsOfTable; ++row) {
      EXPECT_EQ(values[row].equal(before[2][row]), row >= refreshed) << row;
      EXPECT_EQ(count[row].item<int32_t>(), row < refreshed ? 0 : 3) << row;
    }
    if (rule == ValueRule::zero) {
      EXPECT_EQ(values.slice(0, 0, 10).count_nonzero().item<int64_t>(), 0);
    }
    if (rule == ValueRule::fresh) {
      EXPECT_NEAR(values.slice(0, 0, 10).std().item<double>(), 0.5, 0.15);
    }
    // The next window reads none of them either: they are as they start.
    EXPECT_EQ(
        trained.run({.values = rule}, {.number = 2, .begin = 9, .begin_before = 5, .row_deviation = 0.5}).refreshed, 0);
  }
}

TEST(Reinitialise, RowsOfAnotherLayerOfTheTableStay) {
  const TrainedMemory trained;
  trained.usage->state().slice(0, 0, 10).select(1, 2).fill_(3);
  Usage other(kRowsOfTable);
  other.state()[4][2].fill_(12);  // read in the window
  const std::vector<CountedLayer> layers = {
      {"a", trained.memory.get(), trained.counts.get(), trained.usage.get(), trained.queries.get()},
      {"b", trained.memory.get(), trained.counts.get(), &other, trained.queries.get()}};
  const Tensor before = trained.table->store().values().detach().clone();
  const Reinitialised done = reinitialise(layers, {.begin = 5, .row_deviation = 1}, {}, *trained.optimizers);
  EXPECT_THAT(done.redrawn, ElementsAre(0, 0));
  EXPECT_EQ(done.refreshed, 9);
  EXPECT_TRUE(before[4].equal(trained.table->store().values().detach()[4]));
}

// One row a token of one head: a copy of the parent key reads the copied row. A row that two heads would copy can hold
// one of the copies alone.
TEST(Reinitialise, CopiesWithoutNoiseLeaveTheOutput) {
  const TrainedMemory trained(/*top_k=*/1, /*heads=*/1);
  const Tensor x = torch::randn({6, 6});
  trained.counts->clear();
  trained.usage->clear();
  trained.usage->set_step(7);
  {
    const auto counts = std::shared_ptr<SubKeyCounts>(trained.counts.get(), [](SubKeyCounts*) {});
    const auto usage = std::shared_ptr<Usage>(trained.usage.get(), [](Usage*) {});
    const ObserverScope counting(*trained.memory, counts), dating(*trained.memory, usage);
    trained.memory->forward(x);
  }
  const Tensor before = trained.memory->forward(x).detach();
  const auto unread = trained.counts->state().eq(0).sum().item<int64_t>();
  ASSERT_GT(unread, 3);
  const Reinitialised done = trained.run(
      {.keys = KeyRule::split, .values = ValueRule::copy, .dead_below = 1e-9, .most_redrawn = 1, .noise = 0});
  EXPECT_EQ(done.redrawn[0], unread);
  EXPECT_GT(done.refreshed, 3);
  EXPECT_TRUE(torch::equal(trained.memory->forward(x).detach(), before));
  const Tensor keys = trained.memory->keys1.detach();
  int64_t equal_pairs = 0;
  for (int64_t i = 0; i < kSubKeys; ++i) {
    for (int64_t j = i + 1; j < kSubKeys; ++j) equal_pairs += keys[0][i].equal(keys[0][j]);
  }
  EXPECT_GT(equal_pairs, 0);
}

TEST(Reinitialise, SameBitsForAnyThreadCountAndSeedLayerAndEventDecide) {
  const int before = at::get_num_threads();
  const auto run = [](int threads, const ReinitialiseOptions& options, const ReinitialiseEvent& event,
                      const std::string& name = "layer") {
    const TrainedMemory trained;
    at::set_num_threads(threads);
    trained.count_of(0, 0).index_fill_(0, torch::tensor({2, 5}), 0);
    trained.count_of(1, 1).index_fill_(0, torch::tensor({7}), 0);
    trained.usage->state().slice(0, 0, 20).select(1, 2).fill_(3);
    const std::vector<CountedLayer> layers = {
        {name, trained.memory.get(), trained.counts.get(), trained.usage.get(), trained.queries.get()}};
    reinitialise(layers, event, options, *trained.optimizers);
    return trained.all();
  };
  const ReinitialiseEvent event{.number = 3, .begin = 5, .seed = 9, .row_deviation = 1};
  ReinitialiseEvent later = event, other = event;
  later.number = 4;
  other.seed = 10;
  for (const KeyRule keys : {KeyRule::query, KeyRule::split, KeyRule::fresh}) {
    const ReinitialiseOptions options{.keys = keys};
    const auto one = run(1, options, event);
    for (const int threads : {2, 8}) EXPECT_TRUE(all_same_bits(run(threads, options, event), one));
    EXPECT_FALSE(run(1, options, later)[0].equal(one[0]));
    EXPECT_FALSE(run(1, options, other)[0].equal(one[0]));
    EXPECT_FALSE(run(1, options, event, "another")[0].equal(one[0]));
  }
  at::set_num_threads(before);
}

}  // namespace
}  // namespace loci
