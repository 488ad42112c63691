#include "loci/tasks/memory_watch.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cmath>
#include <limits>
#include <map>

#include "loci/table/row_store.h"
#include "tests/memory_cases.h"

namespace loci {
namespace {

using at::Tensor;

struct WatchedLayer {
  std::shared_ptr<ProductKeyMemory> memory;
  std::unique_ptr<MemoryWatch> watch;
  std::unique_ptr<OptimizerSet> optimizers;
};

WatchedLayer watched_layer(int64_t rows, QueryNorm norm = QueryNorm::none) {
  auto memory = std::make_shared<ProductKeyMemory>("memory", small_memory([&](auto& o) { o.query_norm = norm; }),
                                                   std::make_shared<LocalTable>("values", rows, 6), 7);
  auto watch = std::make_unique<MemoryWatch>(std::vector<WatchedMemory>{{3, memory}});
  std::vector<NamedParameter> keys = {{"keys1", memory->keys1}, {"keys2", memory->keys2}};
  return {
      memory, std::move(watch),
      std::make_unique<OptimizerSet>(keys, DenseOptimizerOptions{},
                                     std::vector<std::pair<TablePtr, RowOptimizerOptions>>{{memory->table(), {}}}, 1)};
}

// One step that reads for the inputs x.
std::vector<TaskEvent> watched_step(const WatchedLayer& layer, int64_t step, const Tensor& x) {
  layer.watch->before_step(step);
  {
    const auto observed = layer.watch->observe();
    layer.memory->forward(x);
  }
  layer.memory->forward(at::randn_like(x));  // not observed
  return layer.watch->after_step({step + 1, 1000, 1.0}, *layer.optimizers);
}

std::vector<TaskEvent> watched_steps(const WatchedLayer& layer, int64_t from, int64_t to, const Tensor& x) {
  std::vector<TaskEvent> events;
  for (int64_t step = from; step < to; ++step) {
    for (TaskEvent& event : watched_step(layer, step, x)) events.push_back(std::move(event));
  }
  return events;
}

// All inputs are alike: 2 heads read 3 rows each.
TEST(MemoryWatch, TellsOnceThatAMemoryHasCollapsed) {
  const WatchedLayer layer = watched_layer(400);
  const std::vector<TaskEvent> events = watched_steps(layer, 0, 400, torch::ones({4, 6}));
  ASSERT_EQ(events.size(), 4u);
  const double used = events[0].line["used"];
  EXPECT_LE(used, 6.0 / 400);
  const std::string rest = fmt::format("{:.1f} % of rows used, 100 % expected; query norm is none", 100 * used);
  EXPECT_EQ(events[0].notice, "memory uses few rows: " + rest);
  EXPECT_EQ(events[1].notice, "memory collapsed: " + rest);
  EXPECT_EQ(events[2].notice + events[3].notice, "");
  for (size_t i = 0; i < events.size(); ++i) {
    const nlohmann::json& line = events[i].line;
    EXPECT_EQ(line["kind"], "memory");
    EXPECT_EQ(line["layer"], 3);
    EXPECT_EQ(line["steps"], 100);
    EXPECT_EQ(line["level"], i == 0 ? "few" : "collapsed");
    EXPECT_LT(line["sub_keys_alive"].get<double>(), 0.2);
  }
}

// A memory that recovers in part is logged; what people are told is bad news alone.
TEST(MemoryWatch, TellsOfALevelThatFellAndNotOfOneThatRose) {
  const WatchedLayer layer = watched_layer(400);
  const Tensor alike = torch::ones({4, 6});
  torch::manual_seed(4);
  const Tensor spread = torch::randn({20, 6});  // at most 120 rows of 400
  EXPECT_TRUE(watched_steps(layer, 0, 200, alike).at(1).notice.starts_with("memory collapsed: "));
  const auto risen = watched_steps(layer, 200, 300, spread);
  EXPECT_EQ(risen.at(0).line["level"], "few");
  EXPECT_EQ(risen[0].notice, "");
  const auto fallen = watched_steps(layer, 300, 500, alike);
  EXPECT_EQ(fallen.at(0).line["level"], "few");
  EXPECT_EQ(fallen[0].notice, "");
  EXPECT_TRUE(fallen.at(1).notice.starts_with("memory collapsed: ")) << fallen[1].notice;
  EXPECT_GT(risen[0].line["sub_keys_alive"].get<double>(), 0.4);
  EXPECT_LT(fallen[0].line["sub_keys_alive"].get<double>(), 0.2);  // of this check's reads alone
}

TEST(MemoryWatch, ANoticeNamesItsLayerWhereThereAreSeveral) {
  const WatchedLayer one = watched_layer(400);
  MemoryWatch watch({{3, one.memory}, {5, one.memory}});
  std::vector<TaskEvent> events;
  for (int64_t step = 0; step < 100; ++step) {
    watch.before_step(step);
    const auto observed = watch.observe();
    one.memory->forward(torch::ones({4, 6}));
    for (TaskEvent& event : watch.after_step({step + 1, 1000, 1.0}, *one.optimizers)) events.push_back(event);
  }
  ASSERT_EQ(events.size(), 2u);
  EXPECT_TRUE(events[0].notice.starts_with("layer 3: memory uses few rows: ")) << events[0].notice;
  EXPECT_TRUE(events[1].notice.starts_with("layer 5: memory uses few rows: ")) << events[1].notice;
}

TEST(MemoryWatch, EvenReadsAndTooFewReadsAreNoAlarm) {
  torch::manual_seed(1);
  const WatchedLayer even = watched_layer(16, QueryNorm::batch), few = watched_layer(250'000);
  for (const auto& event : watched_steps(even, 0, 200, torch::randn({50, 6}))) {
    EXPECT_EQ(event.line["level"], "well");
    EXPECT_EQ(event.notice, "");
    EXPECT_EQ(event.line["sub_keys_alive"], 1.0);
  }
  for (int64_t step = 0; step < 200; ++step) {
    for (const auto& event : watched_step(few, step, torch::randn({1, 6}))) {
      EXPECT_EQ(event.line["level"], "well") << event.line;
      EXPECT_LT(event.line["used"].get<double>(), 0.003);
    }
  }
}

TEST(MemoryWatch, TrainingMeasuresAreOfTheReadsSinceTheLastOnes) {
  const WatchedLayer layer = watched_layer(400);
  torch::manual_seed(4);
  watched_steps(layer, 0, 10, torch::randn({50, 6}));
  const double spread = layer.watch->training_measures(true)["usage"];
  watched_steps(layer, 10, 20, torch::ones({4, 6}));
  const double alike = layer.watch->training_measures(true)["usage"];
  EXPECT_GT(spread, 0.1);
  EXPECT_LE(alike, 6.0 / 400);
}

TEST(MemoryWatch, ARestartedMemoryIsMeasuredFromThere) {
  const WatchedLayer layer = watched_layer(400);
  watched_steps(layer, 0, 40, torch::ones({4, 6}));
  layer.watch->restarted(40);
  const auto events = watched_steps(layer, 40, 100, torch::ones({1, 6}));
  EXPECT_EQ(events.at(0).line["steps"], 60);
  EXPECT_NEAR(events[0].line["expected"].get<double>(), 1 - std::exp(-60 * 6 / 400.0), 1e-12);
}

TEST(MemoryWatch, GoesOnFromASavedStateInsideACheck) {
  const Tensor x = torch::ones({4, 6});
  const WatchedLayer whole = watched_layer(400), resumed = watched_layer(400);
  watched_steps(whole, 0, 150, x);
  const auto copy = [](const auto& from, const auto& to) {
    ASSERT_EQ(from.size(), to.size());
    for (size_t i = 0; i < from.size(); ++i) {
      EXPECT_EQ(from[i].first, to[i].first);
      to[i].second.copy_(from[i].second);
    }
  };
  copy(whole.watch->extra_state(), resumed.watch->extra_state());
  copy(whole.watch->row_state(*whole.memory->table(), 0).tensors,
       resumed.watch->row_state(*resumed.memory->table(), 0).tensors);
  const auto a = watched_steps(whole, 150, 300, x), b = watched_steps(resumed, 150, 300, x);
  ASSERT_EQ(a.size(), 2u);
  for (size_t i = 0; i < a.size(); ++i) {
    EXPECT_EQ(a[i].line, b.at(i).line);
    EXPECT_EQ(a[i].notice, b[i].notice);
  }
  EXPECT_NE(a[0].notice.find("collapsed"), std::string::npos);
}

// Trains on inputs that find a few sub-keys alone, with events every 20 steps.
std::vector<TaskEvent> renewed_steps(const WatchedLayer& layer, int64_t from, int64_t to) {
  std::vector<TaskEvent> events;
  for (int64_t step = from; step < to; ++step) {
    torch::manual_seed(static_cast<uint64_t>(step));
    const Tensor x = torch::ones({8, 6}) + 0.1 * torch::randn({8, 6});
    layer.watch->before_step(step);
    double loss = 0;
    {
      const auto observed = layer.watch->observe();
      const Tensor square = (layer.memory->forward(x) - x).square().mean();
      loss = square.item<double>();
      square.backward();
    }
    layer.optimizers->step(step, 100);
    for (TaskEvent& event : layer.watch->after_step({step + 1, 100, loss}, *layer.optimizers)) {
      events.push_back(std::move(event));
    }
  }
  return events;
}

WatchedLayer renewed_layer(KeyRule keys) {
  WatchedLayer layer = watched_layer(400);
  layer.watch->reinitialise({.keys = keys, .window = 20, .until = 0.8}, 0.5, 11);
  return layer;
}

std::vector<std::pair<std::string, Tensor>> state_of(const WatchedLayer& layer) {
  std::vector<std::pair<std::string, Tensor>> state = layer.watch->extra_state();
  const auto add = [&](const auto& more) { state.insert(state.end(), more.begin(), more.end()); };
  add(layer.watch->row_state(*layer.memory->table(), 0).tensors);
  add(layer.optimizers->state());
  for (const auto& parameter : layer.memory->named_parameters()) {
    state.emplace_back(parameter.key(), parameter.value().detach());
  }
  state.emplace_back("values", layer.memory->table()->store().values().detach());
  return state;
}

TEST(MemoryWatch, RedrawsAtTheEndOfEachWindowUntilItsShareOfTheSteps) {
  const WatchedLayer layer = renewed_layer(KeyRule::query);
  const Tensor before = layer.memory->keys1.detach().clone();
  const auto events = renewed_steps(layer, 0, 20);
  ASSERT_EQ(events.size(), 1u);
  EXPECT_EQ(events[0].line["kind"], "reinitialise");
  EXPECT_EQ(events[0].line["event"], 0);
  EXPECT_EQ(events[0].line["layer"], 3);
  EXPECT_EQ(events[0].line["redrawn"], 2 * 2 * 5);  // a quarter of 20 in each head and half
  EXPECT_EQ(events[0].line["refreshed"], 0);        // what nothing read is as it started
  EXPECT_LT(events[0].line["used"].get<double>(), 0.2);
  EXPECT_EQ(events[0].notice, "20 of 80 sub-keys drawn anew, 0 rows refreshed");
  EXPECT_FALSE(before.equal(layer.memory->keys1.detach()));
  std::map<std::string, std::vector<int64_t>> steps;
  for (int64_t step = 20; step < 100; ++step) {
    for (const auto& event : renewed_steps(layer, step, step + 1)) steps[event.line["kind"]].push_back(step + 1);
  }
  EXPECT_EQ(steps["reinitialise"], (std::vector<int64_t>{40, 60}));  // 80 is no longer below 0.8 of 100
  EXPECT_EQ(steps["reinitialise_loss"], (std::vector<int64_t>{40, 60, 80}));
}

std::vector<TaskEvent> reinitialise_events(std::vector<TaskEvent> events) {
  std::erase_if(events, [](const TaskEvent& event) { return event.line["kind"] != "reinitialise"; });
  return events;
}

// Reads of the window before would keep its sub-keys alive, and its queries would become keys.
TEST(MemoryWatch, AWindowOfReinitialisationCountsItsOwnReadsAlone) {
  const WatchedLayer layer = renewed_layer(KeyRule::query);
  torch::manual_seed(4);
  watched_steps(layer, 0, 20, torch::randn({50, 6}));
  const Tensor before = layer.memory->keys1.detach().clone();
  const Tensor alike = torch::ones({4, 6});
  const auto events = reinitialise_events(watched_steps(layer, 20, 40, alike));
  ASSERT_EQ(events.size(), 1u);
  EXPECT_EQ(events[0].line["redrawn"], 20);
  const Tensor after = layer.memory->keys1.detach();
  const Tensor query = layer.memory->read_with_indices(alike).query[0].select(1, 0).unsqueeze(1);  // [H, 1, w]
  const Tensor redrawn = (after != before).any(2);                                                 // [H, n1]
  EXPECT_EQ(redrawn.sum().item<int64_t>(), 10);
  const Tensor parallel = at::cosine_similarity(after, query, 2);
  EXPECT_GT(parallel.masked_select(redrawn).min().item<float>(), 0.9999F);
}

TEST(MemoryWatch, ARowThatIsNotReadAgainIsRefreshedOnce) {
  const WatchedLayer layer = renewed_layer(KeyRule::fresh);
  watched_steps(layer, 0, 20, torch::ones({4, 6}));
  std::vector<int64_t> refreshed;
  for (const auto& event : reinitialise_events(watched_steps(layer, 20, 80, torch::ones({0, 6})))) {
    refreshed.push_back(event.line["refreshed"]);
  }
  ASSERT_EQ(refreshed.size(), 3u);
  EXPECT_GT(refreshed[0], 0);
  EXPECT_EQ(refreshed[1], 0);
  EXPECT_EQ(refreshed[2], 0);
}

TEST(MemoryWatch, ARestartBeginsAWindowOfReinitialisation) {
  const WatchedLayer layer = renewed_layer(KeyRule::fresh);
  watched_steps(layer, 0, 15, torch::ones({4, 6}));
  layer.watch->restarted(15);
  EXPECT_EQ(reinitialise_events(watched_steps(layer, 15, 34, torch::ones({4, 6}))).size(), 0u);
  EXPECT_EQ(reinitialise_events(watched_steps(layer, 34, 35, torch::ones({4, 6}))).size(), 1u);
}

TEST(MemoryWatch, LayersOfOneTableAreReinitialisedTogether) {
  const WatchedLayer one = watched_layer(400);
  MemoryWatch watch({{3, one.memory}, {5, one.memory}});
  watch.reinitialise({.keys = KeyRule::fresh, .window = 20, .until = 0.8}, 0.5, 11);
  {
    const auto observed = watch.observe();
    one.memory->forward(torch::ones({4, 6}));
  }
  const auto events = watch.after_step({20, 1000, 1.0}, *one.optimizers);
  ASSERT_EQ(events.size(), 2u);
  EXPECT_EQ(events[0].line["layer"], 3);
  EXPECT_EQ(events[1].line["layer"], 5);
}

// Step s has loss s; step 15 changed nothing.
TEST(MemoryWatch, LogsTheLossBeforeAndAfterAReinitialisation) {
  const WatchedLayer layer = renewed_layer(KeyRule::fresh);
  std::map<std::string, std::vector<nlohmann::json>> lines;
  for (int64_t made = 1; made <= 40; ++made) {
    const double loss = made == 15 ? std::numeric_limits<double>::quiet_NaN() : static_cast<double>(made);
    for (const auto& event : layer.watch->after_step({made, 100, loss}, *layer.optimizers)) {
      lines[event.line["kind"]].push_back(event.line);
    }
  }
  ASSERT_EQ(lines["reinitialise_loss"].size(), 1u);
  const nlohmann::json& line = lines["reinitialise_loss"][0];
  EXPECT_EQ(line["event"], 0);
  EXPECT_EQ(line["loss_before"], 15);   // mean of 10 .. 20 without 15
  EXPECT_EQ(line["loss_after"], 35.5);  // mean of 31 .. 40
}

TEST(MemoryWatch, ARunResumedInsideAWindowOfReinitialisationHasTheSameBits) {
  for (const KeyRule keys : {KeyRule::query, KeyRule::split, KeyRule::fresh}) {
    const WatchedLayer whole = renewed_layer(keys), resumed = renewed_layer(keys);
    renewed_steps(whole, 0, 47);
    const torch::NoGradGuard guard;
    const auto from = state_of(whole), to = state_of(resumed);
    ASSERT_EQ(from.size(), to.size());
    for (size_t i = 0; i < from.size(); ++i) to[i].second.copy_(from[i].second);
    const at::AutoGradMode training(true);
    const auto a = renewed_steps(whole, 47, 100), b = renewed_steps(resumed, 47, 100);
    ASSERT_GE(a.size(), 2u);
    for (size_t i = 0; i < a.size(); ++i) EXPECT_EQ(a[i].line, b.at(i).line);
    const auto end = state_of(whole), other = state_of(resumed);
    for (size_t i = 0; i < end.size(); ++i) EXPECT_TRUE(end[i].second.equal(other[i].second)) << end[i].first;
  }
}

}  // namespace
}  // namespace loci
