// A watch of several ranks, each with a slice of the batch and a part of the rows, against one of one process.
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "loci/base/check.h"
#include "loci/tasks/memory_watch.h"
#include "tests/memory_cases.h"
#include "tests/ranks.h"
#include "tests/sharded_rows.h"

namespace loci::memory_watch_ranks_test {
namespace {

using at::Tensor;

constexpr int64_t kTableRows = 400, kTokens = 10;

struct Watched {
  std::shared_ptr<ProductKeyMemory> memory;
  MemoryWatch watch;
  OptimizerSet optimizers;
  std::vector<nlohmann::json> log = {};
};

// In double: at float's rounding a search may find another row.
Watched watched(const Ranks& ranks) {
  TablePtr table = make_sharded({}, kTableRows, 6, at::kDouble);
  if (ranks.size > 1) table = make_sharded(ranks, kTableRows, 6, at::kDouble);
  auto memory = std::make_shared<ProductKeyMemory>(
      "memory", small_memory([](auto& o) { o.query_norm = QueryNorm::none; }), table, 7);
  memory->to(at::kDouble);
  return {memory, MemoryWatch({{3, memory}}, ranks),
          OptimizerSet({{"keys1", memory->keys1}}, DenseOptimizerOptions{},
                       std::vector<std::pair<TablePtr, RowOptimizerOptions>>{{table, {}}}, 1)};
}

std::vector<Tensor> inputs() {
  torch::manual_seed(5);
  std::vector<Tensor> x;
  for (int64_t step = 0; step < 300; ++step) {
    x.push_back(torch::ones({kTokens, 6}, at::kDouble) + 0.2 * torch::randn({kTokens, 6}, at::kDouble));
  }
  return x;
}

// Steps from .. to - 1, every third with reads, and a line of training measures every 40. The last of three ranks is
// idle.
void run_steps(Watched& w, const std::vector<Tensor>& x, int64_t from, int64_t to, const Ranks& ranks) {
  for (int64_t step = from; step < to; ++step) {
    w.watch.before_step(step);
    if (step % 3 == 0) {
      const auto observed = w.watch.observe();
      w.memory->forward(slice(x[static_cast<size_t>(step)], ranks, /*idle=*/ranks.size > 2));
    }
    for (TaskEvent& event : w.watch.after_step({step + 1, 300, 1.0}, w.optimizers)) {
      event.line["notice"] = event.notice;
      w.log.push_back(event.line);
    }
    if ((step + 1) % 40 == 0) w.log.push_back(w.watch.training_measures(step != 79));
  }
}

// Weights are summed in another order; all else is counted.
void expect_same_log(const std::vector<nlohmann::json>& got, const std::vector<nlohmann::json>& expected) {
  ASSERT_EQ(got.size(), expected.size());
  for (size_t i = 0; i < got.size(); ++i) {
    ASSERT_EQ(got[i].size(), expected[i].size()) << got[i] << expected[i];
    for (const auto& [key, value] : expected[i].items()) {
      if (key == "kl" || key == "gini") {
        ASSERT_EQ(got[i].at(key).is_null(), value.is_null());
        if (!value.is_null()) {
          EXPECT_NEAR(got[i].at(key).get<double>(), value.get<double>(), 1e-6) << key;
        }
      } else {
        EXPECT_EQ(got[i].at(key), value) << key;
      }
    }
  }
}

TEST(MemoryWatchRanks, AllRanksLogWhatOneProcessLogs) {
  const std::vector<Tensor> x = inputs();
  Watched one = watched({});
  run_steps(one, x, 0, 250, {});
  ASSERT_EQ(one.log.size(), 2u + 6u);
  for (const int64_t size : {2, 3}) {
    std::vector<std::vector<nlohmann::json>> logs(static_cast<size_t>(size));
    run_ranks(size, [&](const Ranks& ranks) {
      Watched w = watched(ranks);
      run_steps(w, x, 0, 250, ranks);
      logs[static_cast<size_t>(ranks.rank)] = w.log;
    });
    expect_same_log(logs[0], one.log);
    for (const auto& log : logs) EXPECT_EQ(log, logs[0]);
  }
}

// What parts of a checkpoint hold, put together.
struct Saved {
  std::map<std::string, Tensor> rows, extra;
  std::vector<int64_t> changed;
};

std::map<std::string, Tensor> copies_of(const std::vector<std::pair<std::string, Tensor>>& tensors) {
  std::map<std::string, Tensor> copies;
  for (const auto& [name, tensor] : tensors) copies.emplace(name, tensor.clone());
  return copies;
}

Saved saved_by(const std::vector<Saved>& parts, int64_t size) {
  Saved whole = parts[0];
  for (auto& [name, rows] : whole.rows) {
    std::vector<Tensor> all;
    for (const Saved& part : parts) all.push_back(part.rows.at(name));
    rows = torch::cat(all);
  }
  whole.changed.clear();
  for (int64_t p = 0; p < size; ++p) {
    const RowRange range = ShardedTable::equal_part(kTableRows, {"", p, size});
    for (const int64_t row : parts[static_cast<size_t>(p)].changed) whole.changed.push_back(range.first + row);
    for (const auto& [name, tensor] : parts[static_cast<size_t>(p)].extra) {
      EXPECT_TRUE(torch::equal(tensor, whole.extra.at(name))) << name;
    }
  }
  return whole;
}

Saved save(Watched& w, int64_t since) {
  const RowCounters rows = w.watch.row_state(*w.memory->table(), since);
  return {copies_of(rows.tensors), copies_of(w.watch.extra_state()), rows.changed};
}

void load(Watched& w, const Saved& saved, const Ranks& ranks) {
  const RowRange here = ShardedTable::equal_part(kTableRows, ranks);
  for (const auto& [name, tensor] : w.watch.row_state(*w.memory->table(), 0).tensors) {
    tensor.copy_(saved.rows.at(name).narrow(0, here.first, here.count));
  }
  for (const auto& [name, tensor] : w.watch.extra_state()) tensor.copy_(saved.extra.at(name));
}

// Rows that count in the window that began with step 120, as RowUsage [N, 3].
Tensor in_window(const Tensor& rows) {
  Tensor result = rows.clone();
  result.narrow(1, 0, 2).mul_(rows.select(1, 2).gt(120).unsqueeze(1));
  return result;
}

TEST(MemoryWatchRanks, ACheckpointInPartsIsThatOfOneProcessAndOpensOnAnyNumber) {
  const std::vector<Tensor> x = inputs();
  Watched one = watched({});
  run_steps(one, x, 0, 150, {});
  const Saved expected = save(one, 100);
  one.log.clear();
  run_steps(one, x, 150, 300, {});

  std::vector<Saved> parts(3);
  run_ranks(3, [&](const Ranks& ranks) {
    Watched w = watched(ranks);
    run_steps(w, x, 0, 130, ranks);
    save(w, 100);  // changes nothing
    run_steps(w, x, 130, 150, ranks);
    parts[static_cast<size_t>(ranks.rank)] = save(w, 100);
    if (ranks.rank == 0) w.watch.extra_state();  // sends no message
    w.log.clear();
    run_steps(w, x, 150, 300, ranks);
    expect_same_log(w.log, one.log);
  });
  const Saved whole = saved_by(parts, 3);
  EXPECT_EQ(whole.changed, expected.changed);
  ASSERT_EQ(whole.extra.size(), expected.extra.size());
  for (const auto& [name, tensor] : expected.extra) EXPECT_TRUE(torch::equal(whole.extra.at(name), tensor)) << name;
  const Tensor got = in_window(whole.rows.at("usage.3")), rows = in_window(expected.rows.at("usage.3"));
  ASSERT_EQ(got.sizes(), rows.sizes());
  EXPECT_GT(rows.select(1, 0).count_nonzero().item<int64_t>(), 10);
  for (const int64_t column : {0, 2}) EXPECT_TRUE(torch::equal(got.select(1, column), rows.select(1, column)));
  const auto weights = [](const Tensor& t) { return t.select(1, 1).contiguous().view(at::kFloat); };
  EXPECT_TRUE(torch::allclose(weights(got), weights(rows), 1e-6, 0));

  for (const int64_t size : {1, 2}) {
    run_ranks(size, [&](const Ranks& ranks) {
      Watched w = watched(ranks);
      run_steps(w, x, 0, 7, ranks);  // whatever was counted before is gone
      load(w, whole, ranks);
      run_steps(w, x, 150, 300, ranks);
      expect_same_log(w.log, one.log);
    });
  }
}

TEST(MemoryWatchRanks, ReinitialisationIsRefused) {
  const auto memory = watched({}).memory;
  MemoryWatch watch({{3, memory}}, {"nobody", 0, 2});
  try {
    watch.reinitialise({}, 0.5, 1);
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::usage);
    EXPECT_STREQ(error.what(), "reinitialise: keys and rows must be drawn anew by one process, got 2 processes");
  }
}

}  // namespace
}  // namespace loci::memory_watch_ranks_test
