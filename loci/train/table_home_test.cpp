// Legend: T tokens, K reads of a token.
#include "loci/train/table_home.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include "loci/base/check.h"
#include "loci/base/progress.h"
#include "loci/base/random.h"
#include "loci/optim/row_optimizer.h"
#include "loci/table/mapped_table.h"
#include "loci/train/memory_check.h"
#include "loci/train/table_checkpoint.h"
#include "tests/same_bytes.h"
#include "tests/temporary_folder.h"

namespace loci {
namespace {

namespace fs = std::filesystem;

// Reads of made-up rows, an output gradient, a step of the optimiser.
void train(Table& table, RowOptimizer& rows, int64_t steps) {
  const int64_t use = table.register_use();
  for (int64_t step = 0; step < steps; ++step) {
    const CounterRandom random(3, "train." + std::to_string(step));
    at::Tensor index = at::empty({16, 4}, at::kLong);  // [T, K]
    at::Tensor weight = at::empty({16, 4}, at::kFloat);
    for (int64_t i = 0; i < index.numel(); ++i) {
      index.mutable_data_ptr<int64_t>()[i] =
          static_cast<int64_t>(random.below(static_cast<uint64_t>(i), static_cast<uint64_t>(table.rows())));
      weight.mutable_data_ptr<float>()[i] = static_cast<float>(random.normal(static_cast<uint64_t>(1000 + i)));
    }
    const at::Tensor y = table.read(index, weight, use);
    (y - 1).square().sum().backward();
    rows.step();
  }
}

TEST(TableHome, MappedRowsTrainToTheBitsOfRowsInMemory) {
  for (const auto dtype : {at::kFloat, at::kBFloat16}) {
    for (const RowRule rule : {RowRule::adam, RowRule::adam_row_moment, RowRule::adagrad, RowRule::sgd}) {
      const TemporaryFolder folder;
      TableSpec spec = {.name = "m", .rows = 101, .width = 13, .dtype = dtype, .start_std = 0.3, .seed = 5};
      const TableMaker maker = training_tables(folder / "work", /*loaded=*/false);
      const TablePtr local = maker(spec);
      EXPECT_FALSE(fs::exists(folder / "work"));
      spec.home = TableHome::mapped;
      const TablePtr mapped = maker(spec);
      ASSERT_TRUE(same_bytes(local->store().values(), mapped->store().values()));
      RowOptimizerOptions options;
      options.rule = rule;
      if (dtype == at::kBFloat16) options.moments = RowMoments::bfloat16;
      RowOptimizer a(local->store(), options, 1), b(mapped->store(), options, 1);
      train(*local, a, 12);
      train(*mapped, b, 12);
      EXPECT_TRUE(same_bytes(local->store().values(), mapped->store().values()));
      const auto left = a.state(), right = b.state();
      for (size_t i = 0; i < left.size(); ++i) {
        EXPECT_TRUE(same_bytes(left[i].second, right[i].second)) << left[i].first;
      }
      // The file is a safetensors file like any other.
      const SafetensorsReader file(folder / "work/table.m.safetensors");
      EXPECT_EQ(std::memcmp(file.bytes("m").data(), local->store().values().const_data_ptr(),
                            local->store().values().nbytes()),
                0);
      a.clear_state();
      b.clear_state();
      local->store().initialise_zero();
      mapped->store().initialise_zero();
      EXPECT_TRUE(same_bytes(local->store().values(), mapped->store().values()));
      for (const auto& [name, state] : b.row_state()) EXPECT_EQ(state.count_nonzero().item<int64_t>(), 0) << name;
    }
  }
}

TEST(TableHome, ServesFromTheCheckpointWhatIsMapped) {
  const TemporaryFolder folder;
  TableSpec spec = {.name = "m", .rows = 50, .width = 6, .home = TableHome::mapped, .start_std = 1, .seed = 2};
  const TablePtr trained = training_tables(folder / "work", false)(spec);
  RowOptimizer rows(trained->store(), {}, 1);
  train(*trained, rows, 3);
  CheckpointWriter writer(folder.path(), 3);
  const nlohmann::json entry = save_table(writer, 3, rows, std::nullopt);
  writer.finish({{"tables", {{"m", entry}}}}, 0);
  const CheckpointReader checkpoint(folder / "step-3");
  for (const TableHome home : {TableHome::memory, TableHome::mapped}) {
    spec.home = home;
    const TablePtr table = serving_tables(checkpoint)(spec);
    load_table(checkpoint, *table);
    EXPECT_TRUE(same_bytes(table->store().values(), trained->store().values()));
    EXPECT_EQ(dynamic_cast<ServedTable*>(table.get()) != nullptr, home == TableHome::mapped);
    if (home == TableHome::mapped) {
      EXPECT_THROW(RowOptimizer(table->store(), {}, 1), Error);
    }
  }
  spec.rows = 51;
  EXPECT_THROW(serving_tables(checkpoint)(spec), Error);
}

TEST(TableHome, AsksForTheFileWhereMemoryWillNotDo) {
  EXPECT_FALSE(is_served_from_file(TableHome::memory, at::kFloat, 1 << 20));
  EXPECT_TRUE(is_served_from_file(TableHome::mapped, at::kFloat, 1 << 20));
  EXPECT_TRUE(is_served_from_file(TableHome::memory, at::kChar, 1 << 20));
  EXPECT_TRUE(is_served_from_file(TableHome::memory, at::kFloat, available_bytes()));
}

TEST(TableHome, RowsThatWillBeLoadedAreNotDrawn) {
  const TemporaryFolder folder;
  const TableSpec spec = {.name = "m", .rows = 50, .width = 6, .start_std = 1, .seed = 2};
  EXPECT_EQ(training_tables(folder / "work", /*loaded=*/true)(spec)->store().values().count_nonzero().item<int64_t>(),
            0);
}

TEST(TableHome, TheWorkFolderIsEmptyAtFirstAndGoes) {
  const TemporaryFolder folder;
  fs::create_directories(folder / "work/left");
  {
    const WorkFolder work(folder / "work");
    EXPECT_FALSE(fs::exists(work.path()));
    fs::create_directories(work.path() / "mine");
  }
  EXPECT_FALSE(fs::exists(folder / "work"));
}

TEST(TableHome, DiskThatIsNotThereIsRefused) {
  const TemporaryFolder folder;
  EXPECT_NO_THROW(require_disk("test", folder / "new/place", {{"tables", 4096}}));
  try {
    require_disk("test", folder / "new/place", {{"tables", int64_t{1} << 60}});
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::resources);
    EXPECT_THAT(error.what(), testing::HasSubstr("of disk, got 1.0 EiB (tables 1.0 EiB)"));
  }
}

}  // namespace
}  // namespace loci
