// Legend: N rows, D width.
#include "loci/train/table_checkpoint.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <torch/torch.h>

#include "loci/base/check.h"
#include "loci/base/durable_file.h"
#include "loci/base/progress.h"
#include "loci/base/random.h"
#include "loci/table/local_table.h"
#include "loci/table/mapped_table.h"
#include "tests/temporary_folder.h"

namespace loci {
namespace {

namespace fs = std::filesystem;
using testing::ElementsAre;
using testing::HasSubstr;

constexpr int64_t kRows = 4096, kWidth = 64;  // 1 MiB
const std::string kBase = "table.m.safetensors";

// A table that is trained, and its checkpoints.
struct Trained {
  explicit Trained(const fs::path& folder, bool mapped = false) : folder(folder) {
    if (mapped) {
      table = std::make_shared<MappedTable>("m", kRows, kWidth, at::kFloat, folder);
    } else {
      table = std::make_shared<LocalTable>("m", kRows, kWidth);
    }
    rows = std::make_unique<RowOptimizer>(table->store(), RowOptimizerOptions{}, 1);
    use = table->register_use();
  }
  // Touches `count` rows, drawn by `step`.
  void train(int64_t step, int64_t count) {
    at::Tensor index = at::empty({1, count}, at::kLong);
    const CounterRandom random(9, std::to_string(step));
    for (int64_t i = 0; i < count; ++i) {
      index.mutable_data_ptr<int64_t>()[i] = static_cast<int64_t>(random.below(static_cast<uint64_t>(i), kRows));
    }
    (table->read(index, at::ones({1, count}), use) - 1).square().sum().backward();
    rows->step();
  }
  nlohmann::json save(int64_t step, int64_t keep_last = 0) {
    CheckpointWriter writer(folder, step);
    const nlohmann::json entry = save_table(writer, step, *rows, saved);
    saved = writer.finish({{"tables", {{"m", entry}}}}, keep_last);
    table->store().clear_changed_rows();
    return entry;
  }
  void load(int64_t step) {
    const CheckpointReader checkpoint(folder / fmt::format("step-{}", step));
    load_table(checkpoint, *table, rows.get());
    saved = CheckpointFiles{checkpoint.path(), checkpoint.manifest()};
  }

  fs::path folder;
  TablePtr table;
  std::unique_ptr<RowOptimizer> rows;
  std::optional<CheckpointFiles> saved;
  int64_t use = 0;
};

void expect_equal(const Trained& a, const Trained& b) {
  const auto same = [](const at::Tensor& x, const at::Tensor& y) {
    return x.nbytes() == y.nbytes() && std::memcmp(x.const_data_ptr(), y.const_data_ptr(), x.nbytes()) == 0;
  };
  EXPECT_TRUE(same(a.table->store().values(), b.table->store().values()));
  const auto left = a.rows->row_state(), right = b.rows->row_state();
  for (size_t i = 0; i < left.size(); ++i) EXPECT_TRUE(same(left[i].second, right[i].second)) << left[i].first;
}

ino_t inode(const fs::path& file) {
  struct stat status = {};
  return stat(file.c_str(), &status) == 0 ? status.st_ino : 0;
}

TEST(TableCheckpoint, HoldsWhatChangedAndGivesTheBitsBack) {
  for (const bool mapped : {false, true}) {
    const TemporaryFolder folder;
    Trained run(folder.path(), mapped);
    run.table->store().initialise_normal(1, 1);
    for (int64_t step = 1; step <= 4; ++step) {
      run.train(step, 100);
      const nlohmann::json entry = run.save(step);
      EXPECT_EQ(entry.at("deltas").size(), static_cast<size_t>(step - 1));
      EXPECT_EQ(inode(folder / fmt::format("step-{}", step) / kBase), inode(folder / "step-1" / kBase));
      const TemporaryFolder other;
      Trained again(other.path(), mapped);
      again.folder = folder.path();
      again.load(step);
      expect_equal(run, again);
    }
    const auto size = [&](const std::string& name) { return fs::file_size(folder / "step-4" / name); };
    EXPECT_LT(size("table.m.delta-4.safetensors"), size(kBase) / 10);
    EXPECT_THAT(run.saved->manifest.at("tables").at("m").at("deltas").at(2).at("rows").get<int64_t>(),
                testing::AllOf(testing::Gt(90), testing::Le(100)));
  }
}

TEST(TableCheckpoint, ARunThatWasBrokenOffGoesOnWithTheSameFiles) {
  const TemporaryFolder one, two;
  Trained whole(one.path());
  whole.table->store().initialise_normal(1, 1);
  for (int64_t step = 1; step <= 5; ++step) {
    whole.train(step, 200);
    whole.save(step);
  }
  for (int64_t step = 1; step <= 5; ++step) {
    Trained part(two.path());
    part.table->store().initialise_normal(1, 1);
    if (step > 1) part.load(step - 1);
    part.train(step, 200);
    part.save(step);
    if (step == 5) expect_equal(whole, part);
  }
  for (const auto& entry : fs::directory_iterator(one / "step-5")) {
    const fs::path other = two / "step-5" / entry.path().filename();
    ASSERT_TRUE(fs::exists(other)) << other;
    EXPECT_EQ(read_text_file(entry.path()), read_text_file(other));
  }
}

TEST(TableCheckpoint, ANewBaseComesWhenHalfOfTheRowsAreInDeltas) {
  const TemporaryFolder folder;
  Trained run(folder.path());
  run.save(0);
  size_t most = 0;
  int64_t bases = 0;
  for (int64_t step = 1; step <= 12; ++step) {
    run.train(step, 500);
    const size_t deltas = run.save(step).at("deltas").size();
    bases += deltas == 0 ? 1 : 0;
    most = std::max(most, deltas);
  }
  EXPECT_EQ(most, 4U);  // of about 470 rows each
  EXPECT_EQ(bases, 2);
}

TEST(TableCheckpoint, AWholeWriteInAnyWayGivesANewBase) {
  const TemporaryFolder folder;
  Trained run(folder.path());
  run.save(0);
  run.train(1, 10);
  EXPECT_EQ(run.save(1).at("deltas").size(), 1U);
  run.table->store().initialise_normal(2, 1);
  EXPECT_EQ(run.save(2).at("deltas").size(), 0U);
  run.train(3, 10);
  EXPECT_EQ(run.save(3).at("deltas").size(), 1U);
  {
    const torch::NoGradGuard guard;
    at::Tensor(run.table->store().values()).mul_(2);
  }
  EXPECT_EQ(run.save(4).at("deltas").size(), 0U);
  run.train(5, 10);
  {
    const torch::NoGradGuard guard;
    at::Tensor(run.table->store().values()).mul_(2);
  }
  run.train(6, 10);
  EXPECT_EQ(run.save(6).at("deltas").size(), 0U);
  run.rows->clear_state();
  EXPECT_EQ(run.save(7).at("deltas").size(), 0U);
  run.rows->clear_state(at::tensor({5}, at::kLong));
  EXPECT_EQ(run.save(8).at("deltas").size(), 1U);
  Trained again(folder.path());
  again.load(8);
  expect_equal(run, again);
}

TEST(TableCheckpoint, LaterOnesStayWholeWhenEarlierOnesAreRemoved) {
  const TemporaryFolder folder;
  Trained run(folder.path());
  run.table->store().initialise_normal(1, 1);
  for (int64_t step = 1; step <= 6; ++step) {
    run.train(step, 50);
    run.save(step, /*keep_last=*/1);
  }
  EXPECT_FALSE(fs::exists(folder / "step-5"));
  Trained again(folder.path());
  again.load(6);
  expect_equal(run, again);
  // A copy of one folder is a checkpoint too.
  fs::create_directory(folder / "copy");
  fs::copy(folder / "step-6", folder / "copy/step-6");
  fs::remove_all(folder / "step-6");
  Trained copied(folder / "copy");
  copied.load(6);
  expect_equal(run, copied);
}

TEST(TableCheckpoint, ADamagedDeltaLeavesTheCheckpointOut) {
  const TemporaryFolder folder;
  Trained run(folder.path());
  for (int64_t step = 1; step <= 3; ++step) {
    run.train(step, 50);
    run.save(step);
  }
  const fs::path delta = folder / "step-3/table.m.delta-3.safetensors";
  std::string bytes = read_text_file(delta);
  bytes[5000] = static_cast<char>(bytes[5000] ^ 1);
  write_file_durably(delta, bytes);
  std::vector<std::string> notices;
  const CheckpointReader latest = open_latest(folder.path(), [&](const std::string& line) { notices.push_back(line); });
  EXPECT_EQ(latest.step(), 2);
  EXPECT_THAT(notices, ElementsAre(HasSubstr("delta-3.safetensors")));
}

TEST(TableCheckpoint, WithoutTheLastOneABaseIsWritten) {
  const TemporaryFolder folder;
  Trained run(folder.path());
  run.train(1, 50);
  run.save(1);
  fs::remove_all(folder / "step-1");
  run.train(2, 50);
  EXPECT_EQ(run.save(2).at("deltas").size(), 0U);
  Trained again(folder.path());
  again.load(2);
  expect_equal(run, again);
}

TEST(TableCheckpoint, RowsOfZerosCostLittleDiskAndNoMemoryWhenLoaded) {
  const TemporaryFolder folder;
  const int64_t rows = 1 << 16;  // 16 MiB
  const auto table = std::make_shared<LocalTable>("m", rows, kWidth);
  const RowOptimizer optimizer(table->store(), {}, 1);
  table->store().set_rows(rows / 2, at::ones({1, kWidth}));
  CheckpointWriter writer(folder.path(), 1);
  save_table(writer, 1, optimizer, std::nullopt);
  struct stat status = {};
  ASSERT_EQ(stat(writer.file(kBase).c_str(), &status), 0);
  EXPECT_EQ(status.st_size, 4096 + rows * kWidth * 4);
  EXPECT_LT(status.st_blocks * 512, 1 << 20);
  writer.finish({{"tables", nlohmann::json::object()}}, 0);
  LocalTable loaded("m", rows, kWidth);
  const CheckpointReader checkpoint(folder / "step-1");
  const int64_t before = resident_bytes();
  load_table(checkpoint, loaded);
  EXPECT_LT(resident_bytes() - before, 8 << 20);
  EXPECT_TRUE(torch::equal(loaded.store().values(), table->store().values()));
}

// Counters of rows: those read are no subset of those written.
TEST(TableCheckpoint, CountersGoWithTheRowsThatChanged) {
  const TemporaryFolder folder;
  Trained run(folder.path());
  at::Tensor counters = at::zeros({kRows, 3}, at::kInt);
  const auto save = [&](int64_t step, std::vector<int64_t> counted) {
    for (const int64_t row : counted) counters[row].fill_(step);
    CheckpointWriter writer(folder.path(), step);
    const nlohmann::json entry = save_table(writer, step, *run.rows, run.saved, {{{"usage.0", counters}}, counted});
    run.saved = writer.finish({{"tables", {{"m", entry}}}}, 0);
    run.table->store().clear_changed_rows();
    return entry;
  };
  run.train(1, 50);
  save(1, {});
  run.train(2, 1);
  EXPECT_EQ(save(2, {7, kRows - 1}).at("deltas").at(0).at("rows"), 3);
  EXPECT_EQ(save(3, {7}).at("deltas").at(1).at("rows"), 1);
  Trained again(folder.path());
  const at::Tensor loaded = at::ones_like(counters);
  load_table(CheckpointReader(folder / "step-3"), *again.table, again.rows.get(), {{"usage.0", loaded}});
  expect_equal(run, again);
  EXPECT_TRUE(torch::equal(loaded, counters));
}

TEST(TableCheckpoint, AServedTableHasTheDeltasAndLeavesTheFiles) {
  const TemporaryFolder folder;
  Trained run(folder.path());
  run.table->store().initialise_normal(1, 1);
  for (int64_t step = 1; step <= 3; ++step) {
    run.train(step, 50);
    run.save(step);
  }
  const CheckpointReader checkpoint(folder / "step-3");
  ServedTable served(checkpoint.file(kBase), "m");
  EXPECT_FALSE(torch::equal(served.store().values(), run.table->store().values()));
  load_table(checkpoint, served);
  EXPECT_TRUE(torch::equal(served.store().values(), run.table->store().values()));
  EXPECT_NO_THROW(CheckpointReader(folder / "step-3"));
}

}  // namespace
}  // namespace loci
