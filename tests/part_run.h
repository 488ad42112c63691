// For tests of checkpoints: one rank of a run whose table has its rows on several ranks.
//
// Legend: T tokens, K reads of a token.
#pragma once

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <functional>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "loci/base/random.h"
#include "loci/table/sharded_table.h"
#include "loci/train/checkpoint.h"
#include "loci/train/tensor_file.h"
#include "tests/same_bytes.h"
#include "tests/sharded_rows.h"
#include "tests/tiny_task.h"

namespace loci {

// A third of the rows is 1 MiB at least, so that deltas are written.
struct TableForm {
  int64_t rows = 12501;
  int64_t width = 64;
  at::ScalarType dtype = at::kFloat;
  RowOptimizerOptions optimizer = {};
};

// A task whose table has its rows on ranks, and counters of them.
class PartTask : public TinyTask {
 public:
  PartTask(const TableForm& form, const Ranks& ranks, TinyOptions options = {})
      : TinyTask(std::move(options), TaskInputs{}), form_(form) {
    const RowRange part = ShardedTable::equal_part(form.rows, ranks);
    table = std::make_shared<ShardedTable>(
        ranks, std::make_shared<LocalRows>("m", part, form.width, LocalTableOptions{form.dtype}));
    use = table->register_use();
    counters = at::zeros({part.count, 3}, at::kInt);
  }
  std::vector<std::pair<TablePtr, RowOptimizerOptions>> tables() override { return {{table, form_.optimizer}}; }
  RowCounters row_state(const Table&, int64_t) override {
    if (before_rows) before_rows();
    return {{{"usage.0", counters}}, counted};
  }

  TablePtr table;
  int64_t use = 0;
  at::Tensor counters;           // [rows here, 3]
  std::vector<int64_t> counted;  // since the last checkpoint
  std::function<void()> before_rows;

 private:
  TableForm form_;
};

inline std::vector<int64_t> drawn_rows(int64_t step, int64_t rows) {
  const CounterRandom random(9, std::to_string(step));
  std::set<int64_t> drawn;
  for (uint64_t i = 0; i < 300; ++i) drawn.insert(static_cast<int64_t>(random.below(i, static_cast<uint64_t>(rows))));
  return {drawn.begin(), drawn.end()};
}

// One rank of a run.
struct RunProcess {
  RunProcess(const RunDirectory& run, const TableForm& form, const Ranks& ranks, const TinyOptions& options = {})
      : run(run), form(form), ranks(ranks), task(form, ranks, options), optimizers({}, {}, task.tables(), 1) {}

  NamedTensors tensors() const {
    NamedTensors all = optimizers.rows_of(*task.table).row_state();
    all.emplace_back("values", task.table->store().values());
    all.emplace_back("counters", task.counters);
    return all;
  }
  // Rows drawn by `step` get bytes that depend on step, row and tensor alone; counters those of the rows behind them.
  void write(int64_t step) {
    RowStore& rows = task.table->store();
    const auto fill = [&](const std::string& name, const at::Tensor& tensor, int64_t number) {
      const size_t bytes = tensor.nbytes() / static_cast<size_t>(tensor.size(0));
      auto* to = static_cast<unsigned char*>(tensor.mutable_data_ptr()) +
                 static_cast<size_t>(number - rows.first_row()) * bytes;
      for (size_t i = 0; i < bytes; ++i) {
        to[i] = static_cast<unsigned char>(static_cast<size_t>(31 * number + 7 * step) + name.size() + 13 * i);
      }
    };
    std::vector<int64_t> here;
    task.counted.clear();
    for (const int64_t number : drawn_rows(step, form.rows)) {
      const int64_t row = number - rows.first_row();
      if (row < 0 || row >= rows.rows_here()) continue;
      here.push_back(row);
      if (row + 1 < rows.rows_here()) task.counted.push_back(row + 1);
    }
    rows.write_rows(at::tensor(here, at::kLong), [&] {
      for (const int64_t row : here) {
        for (const auto& [name, tensor] : tensors()) {
          if (name != "counters") fill(name, tensor, row + rows.first_row());
        }
      }
    });
    for (const int64_t row : task.counted) fill("counters", task.counters, row + rows.first_row());
  }
  // A step of the ranks together.
  void train(int64_t step) {
    const std::vector<int64_t> drawn = drawn_rows(step, form.rows);
    const at::Tensor all = at::tensor(drawn, at::kLong).narrow(0, 0, 280).view({14, 20});  // [T, K]
    const at::Tensor index = slice(all, ranks);
    (task.table->read(index, at::ones(index.sizes()), task.use) - 1).square().sum().backward();
    optimizers.step(step, 100);
  }
  void save(int64_t step) {
    state.step = step;
    save_checkpoint(run, task, optimizers, state, facts, 0, ranks);
  }
  void load(int64_t step) {
    state = load_checkpoint(CheckpointReader(run.path() / fmt::format("step-{}", step)), task, optimizers);
  }

  const RunDirectory& run;
  TableForm form;
  Ranks ranks;
  PartTask task;
  OptimizerSet optimizers;
  TrainerState state;
  nlohmann::json facts = {{"seed", 1}};
};

inline void expect_rows_of(const RunProcess& here, const RunProcess& whole) {
  const RowStore& rows = here.task.table->store();
  const NamedTensors left = here.tensors(), right = whole.tensors();
  ASSERT_EQ(left.size(), right.size());
  for (size_t i = 0; i < left.size(); ++i) {
    const at::Tensor part = right[i].second.narrow(0, rows.first_row(), rows.rows_here());
    EXPECT_TRUE(same_bytes(left[i].second, part)) << left[i].first;
  }
}

}  // namespace loci
