// For tests of checkpoints: one rank of a run whose table is in parts on several ranks.
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
  TableParts parts = TableParts::rows;
};

// A task whose table is in parts on ranks, and counters of its rows.
class PartTask : public TinyTask {
 public:
  PartTask(const TableForm& form, const Ranks& ranks, TinyOptions options = {})
      : TinyTask(std::move(options), TaskInputs{}), form_(form) {
    const bool by_rows = form.parts == TableParts::rows;
    const RowRange part = by_rows ? ShardedTable::equal_part(form.rows, ranks) : RowRange{0, form.rows};
    const ColumnRange columns = by_rows ? form.width : ShardedTable::equal_columns("m", form.width, ranks);
    table = std::make_shared<ShardedTable>(
        ranks, std::make_shared<LocalRows>("m", part, columns, LocalTableOptions{form.dtype}));
    use = table->register_use();
    counters = at::zeros({table->own_rows().count, 3}, at::kInt);
  }
  std::vector<std::pair<TablePtr, RowOptimizerOptions>> tables() override { return {{table, form_.optimizer}}; }
  RowCounters row_state(const Table&, int64_t) override {
    if (before_rows) before_rows();
    return {{{"usage.0", counters}}, counted};
  }

  TablePtr table;
  int64_t use = 0;
  at::Tensor counters;           // [own rows, 3]
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
    const RowRange own = task.table->own_rows();
    const auto fill = [&](const std::string& name, const at::Tensor& tensor, int64_t number, int64_t first) {
      const size_t bytes = tensor.nbytes() / static_cast<size_t>(tensor.size(0));
      auto* to = static_cast<unsigned char*>(tensor.mutable_data_ptr()) + static_cast<size_t>(number - first) * bytes;
      const bool columns = tensor.dim() == 2 && name != "counters";  // the byte of the whole row
      const size_t byte = columns ? static_cast<size_t>(rows.columns().first) * tensor.element_size() : 0;
      for (size_t i = 0; i < bytes; ++i) {
        to[i] = static_cast<unsigned char>(static_cast<size_t>(31 * number + 7 * step) + name.size() + 13 * (byte + i));
      }
    };
    std::vector<int64_t> here;
    task.counted.clear();
    for (const int64_t number : drawn_rows(step, form.rows)) {
      const int64_t row = number - rows.first_row(), counted = number - own.first + 1;
      if (row >= 0 && row < rows.rows_here()) here.push_back(row);
      if (counted >= 1 && counted < own.count) task.counted.push_back(counted);
    }
    rows.write_rows(at::tensor(here, at::kLong), [&] {
      for (const int64_t row : here) {
        for (const auto& [name, tensor] : tensors()) {
          if (name != "counters") fill(name, tensor, row + rows.first_row(), rows.first_row());
        }
      }
    });
    for (const int64_t row : task.counted) fill("counters", task.counters, row + own.first, own.first);
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
  const RowRange own = here.task.table->own_rows();
  for (size_t i = 0; i < left.size(); ++i) {
    const at::Tensor& all = right[i].second;
    const at::Tensor part =
        left[i].first == "counters" ? all.narrow(0, own.first, own.count) : part_of(all, rows).contiguous();
    EXPECT_TRUE(same_bytes(left[i].second, part)) << left[i].first;
  }
}

}  // namespace loci
