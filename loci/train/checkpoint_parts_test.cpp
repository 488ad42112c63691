// Checkpoints that several ranks write and read.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mount.h>

#include <atomic>
#include <functional>
#include <limits>
#include <new>
#include <string>
#include <utility>
#include <vector>

#include "loci/base/durable_file.h"
#include "loci/base/paths.h"
#include "loci/train/start_weights.h"
#include "loci/train/table_checkpoint.h"
#include "loci/train/table_home.h"
#include "tests/manifest_file.h"
#include "tests/part_run.h"
#include "tests/ranks.h"
#include "tests/temporary_folder.h"

namespace loci {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

std::vector<TableForm> forms() {
  std::vector<TableForm> forms;
  for (const RowRule rule : {RowRule::adam, RowRule::adam_row_moment, RowRule::adagrad, RowRule::sgd}) {
    forms.push_back({.optimizer = {.rule = rule}});
  }
  forms.push_back({.width = 128, .dtype = at::kBFloat16, .optimizer = {.rounding = RowRounding::master}});
  forms.push_back({.width = 128, .dtype = at::kBFloat16, .optimizer = {.moments = RowMoments::bfloat16}});
  return forms;
}

nlohmann::json parts_in(const RunProcess& process) {
  return process.state.saved->manifest.at("tables").at("m").at("parts");
}

using RanksAndParts = std::pair<int64_t, TableParts>;
using CheckParts = std::function<void(const RanksAndParts& by, const RunProcess& process, int64_t save)>;

// Two saves by each number of ranks, checked after each; the next number goes on from there. Counters of rows behind
// the last one of a part are not counted, so the whole table is written as the parts are.
void expect_each_goes_on(const std::vector<RanksAndParts>& runs, TableForm form, const CheckParts& check) {
  const TemporaryFolder folder;
  const RunDirectory run(folder / "run", "task = \"tiny\"\n");
  RunProcess whole(run, form, {});
  int64_t step = 0;
  for (const RanksAndParts& by : runs) {
    at::Tensor counters = whole.task.counters.clone();
    form.parts = by.second;
    run_ranks(by.first, [&](const Ranks& ranks) {
      RunProcess process(run, form, ranks);
      if (step > 0) process.load(step);
      expect_rows_of(process, whole);
      for (const int64_t save : {1, 2}) {
        process.write(step + save);
        process.save(step + save);
        check(by, process, save);
      }
      const RowRange own = process.task.table->own_rows();
      counters.narrow(0, own.first, own.count).copy_(process.task.counters);
    });
    for (const int64_t save : {1, 2}) whole.write(step + save);
    whole.task.counters.copy_(counters);
    step += 2;
  }
  RunProcess last(run, form, {});
  last.load(step);
  expect_rows_of(last, whole);
}

TEST(CheckpointParts, AnyNumberOfRanksGoesOnWithTheSameBytes) {
  constexpr auto kRows = TableParts::rows;
  const auto second_has_deltas = [](const RanksAndParts& by, const RunProcess& process, int64_t save) {
    if (by.first == 1) return;
    for (const nlohmann::json& part : parts_in(process)) {
      EXPECT_EQ(part.at("deltas").size(), static_cast<size_t>(save - 1));
    }
  };
  for (const TableForm& form : forms()) {
    expect_each_goes_on({{1, kRows}, {3, kRows}, {2, kRows}, {1, kRows}}, form, second_has_deltas);
  }
}

TEST(CheckpointParts, TablesByColumnsAndByRowsReadEachOther) {
  constexpr auto kRows = TableParts::rows, kColumns = TableParts::columns;
  const std::vector<TableForm> of_both = {
      {.optimizer = {.rule = RowRule::adam_row_moment}},
      {.width = 130, .dtype = at::kBFloat16, .optimizer = {.rounding = RowRounding::master}}};
  const auto columns_have_no_deltas = [](const RanksAndParts& by, const RunProcess& process, int64_t) {
    if (by.second == TableParts::rows) return;
    ASSERT_EQ(parts_in(process).size(), static_cast<size_t>(by.first));
    for (const nlohmann::json& part : parts_in(process)) EXPECT_EQ(part.at("deltas").size(), 0U);
  };
  for (const TableForm& form : of_both) {
    expect_each_goes_on({{2, kColumns}, {1, kRows}, {3, kColumns}, {2, kRows}, {2, kColumns}, {2, kRows}}, form,
                        columns_have_no_deltas);
  }
}

TEST(CheckpointParts, FilesOfColumnsAreThoseOfRows) {
  const TemporaryFolder folder;
  const RunDirectory rows(folder / "rows", ""), columns(folder / "columns", "");
  run_ranks(3, [&](const Ranks& ranks) {
    for (const auto& [run, parts] : {std::pair(&rows, TableParts::rows), std::pair(&columns, TableParts::columns)}) {
      TableForm form = {.optimizer = {.rule = RowRule::adam_row_moment}};
      form.parts = parts;
      RunProcess process(*run, form, ranks);
      process.write(1);
      process.save(1);
    }
  });
  const std::vector<fs::path> files = entries_of(folder / "rows/step-1");
  EXPECT_EQ(files.size(), entries_of(folder / "columns/step-1").size());
  for (const fs::path& file : files) {
    EXPECT_EQ(read_text_file(file), read_text_file(folder / "columns/step-1" / file.filename())) << file;
  }
}

TEST(CheckpointParts, TheSameRanksGoOnWithTheSameFiles) {
  const TemporaryFolder folder;
  const RunDirectory one(folder / "one", ""), two(folder / "two", "");
  run_ranks(3, [&](const Ranks& ranks) {
    RunProcess whole(one, {}, ranks);
    for (int64_t step = 1; step <= 4; ++step) {
      whole.train(step);
      whole.save(step);
      RunProcess part(two, {}, ranks);
      if (step > 1) part.load(step - 1);
      part.train(step);
      part.save(step);
    }
    EXPECT_EQ(parts_in(whole).at(2).at("deltas").size(), 3U);
  });
  const std::vector<fs::path> files = entries_of(folder / "one/step-4");
  EXPECT_EQ(files.size(), entries_of(folder / "two/step-4").size());
  for (const fs::path& file : files) {
    EXPECT_EQ(read_text_file(file), read_text_file(folder / "two/step-4" / file.filename())) << file;
  }
}

TEST(CheckpointParts, RanksWithoutRowsWriteNone) {
  const TemporaryFolder folder;
  const RunDirectory run(folder / "run", "");
  const TableForm form = {.rows = 2, .width = 4};
  RunProcess whole(run, form, {});
  whole.write(1);
  run_ranks(4, [&](const Ranks& ranks) {
    RunProcess process(run, form, ranks);
    process.write(1);
    process.save(1);
    EXPECT_EQ(parts_in(process).size(), 2U);
  });
  for (const int64_t size : {1, 3, 4}) {
    run_ranks(size, [&](const Ranks& ranks) {
      RunProcess process(run, form, ranks);
      process.load(1);
      const at::Tensor rows = process.task.table->store().values();
      const RowStore& store = process.task.table->store();
      EXPECT_TRUE(same_bytes(rows, whole.task.table->store().values().narrow(0, store.first_row(), rows.size(0))));
      process.save(2);
    });
  }
}

// What each rank must throw when it saves step 2, and that nothing else has changed.
void expect_failed_save(RunProcess& process, ExitCode code, const std::string& message) {
  expect_error(code, message, [&] { process.save(2); });
  EXPECT_EQ(process.state.saved->folder.filename(), "step-1");
}

TEST(CheckpointParts, AnErrorOfOneRankLeavesTheLastCheckpointWhole) {
  const TemporaryFolder folder;
  const RunDirectory run(folder / "run", "");
  std::atomic<bool> fails = false;
  TinyOptions options;
  options.during_saving = [&] {
    if (fails) fail(ExitCode::resources, "alphabet.txt", "it must fit", "a full disk");
  };
  run_ranks(3, [&](const Ranks& ranks) {
    RunProcess process(run, {}, ranks, options);
    process.write(1);
    process.save(1);
    process.write(2);
    process.task.before_rows = [&] {
      if (ranks.rank == 1) fail(ExitCode::resources, "disk", "it must be large", "a small one");
    };
    expect_failed_save(process, ExitCode::resources, "rank 1: disk: it must be large, got a small one");
    process.task.before_rows = [&] {
      if (ranks.rank == 2) throw std::bad_alloc();
    };
    expect_failed_save(process, ExitCode::resources, "rank 2: memory");
    process.task.before_rows = {};
    if (ranks.rank == 0) fails = true;
    expect_failed_save(process, ExitCode::resources, "rank 0: alphabet.txt: it must fit, got a full disk");
    fails = false;
    process.facts["files"] = 1;  // refused when the manifest is made
    expect_failed_save(process, ExitCode::bug, "rank 0: CheckpointWriter: extra members");
    process.facts.erase("files");
    if (ranks.rank == 0) {
      std::vector<std::string> notices;
      EXPECT_EQ(open_latest(run.path(), [&](const std::string& line) { notices.push_back(line); }).step(), 1);
      EXPECT_THAT(notices, testing::IsEmpty());
      for (const fs::path& path : entries_of(run.path())) EXPECT_THAT(path.string(), Not(HasSubstr(".tmp-"))) << path;
    }
    process.save(2);
    for (const nlohmann::json& part : parts_in(process)) EXPECT_EQ(part.at("deltas").size(), 1U);
  });
  RunProcess whole(run, {}, {}), loaded(run, {}, {});
  for (const int64_t step : {1, 2}) whole.write(step);
  loaded.load(2);
  EXPECT_TRUE(same_bytes(loaded.task.table->store().values(), whole.task.table->store().values()));
}

class FullDisk : public testing::TestWithParam<TableParts> {};

TEST_P(FullDisk, LeavesTheLastCheckpointWhole) {
  const TemporaryFolder folder;
  TableForm form;
  form.parts = GetParam();
  const fs::path disk = folder / "disk";
  fs::create_directory(disk);
  if (mount("tmpfs", disk.c_str(), "tmpfs", 0, "size=16m") != 0) GTEST_SKIP() << "mounting a tmpfs is not allowed here";
  {
    const RunDirectory run(disk / "run", "");
    run_ranks(3, [&](const Ranks& ranks) {
      RunProcess process(run, form, ranks);
      process.write(1);
      process.save(1);
      process.task.table->store().initialise_normal(1, 1);  // new bases of 10 MB together
      expect_failed_save(process, ExitCode::resources, "No space left");
    });
    EXPECT_EQ(open_latest(run.path(), {}).step(), 1);
    for (const fs::path& path : entries_of(run.path())) EXPECT_THAT(path.string(), Not(HasSubstr(".tmp-")));
  }
  umount(disk.c_str());
}

INSTANTIATE_TEST_SUITE_P(Parts, FullDisk, testing::Values(TableParts::rows, TableParts::columns),
                         [](const auto& info) { return std::string(name_of(info.param)); });

// A run of three ranks with deltas, as files.
class DamagedParts : public testing::Test {
 protected:
  DamagedParts() : run_(folder_ / "run", "") {
    run_ranks(3, [&](const Ranks& ranks) {
      RunProcess process(run_, {}, ranks);
      for (const int64_t step : {1, 2}) {
        process.write(step);
        process.save(step);
      }
    });
  }
  // Copies the checkpoint, changes its manifest and loads it.
  void expect_refused(const std::string& message, const std::function<void(nlohmann::json& parts)>& change) {
    const fs::path copy = folder_ / "copy/step-2";
    fs::remove_all(copy);
    fs::create_directories(copy);
    fs::copy(step_, copy);
    rewrite_manifest(copy, [&](nlohmann::json& manifest) { change(manifest.at("tables").at("m").at("parts")); });
    PartTask task({}, {});
    OptimizerSet optimizers({}, {}, task.tables(), 1);
    expect_error(ExitCode::input, message, [&] { load_checkpoint(CheckpointReader(copy), task, optimizers); });
  }

  TemporaryFolder folder_;
  RunDirectory run_;
  fs::path step_ = folder_ / "run/step-2";
};

TEST_F(DamagedParts, AreNamed) {
  const std::string second = "table.m.part-2-of-3.safetensors", third = "table.m.part-3-of-3.safetensors";
  expect_refused(second + " must begin at row 4167, without holes or overlaps, got 4166",
                 [](nlohmann::json& parts) { parts[1]["first"] = 4166; });
  expect_refused(second + " must begin at row 4167, without holes or overlaps, got 4168",
                 [](nlohmann::json& parts) { parts[1]["first"] = 4168; });
  expect_refused(third + " must begin at row 4167", [](nlohmann::json& parts) { parts.erase(1); });
  expect_refused("the parts of table m must hold 12501 rows, got 8334", [](nlohmann::json& parts) { parts.erase(2); });
  expect_refused("table m must have parts, got none", [](nlohmann::json& parts) { parts.clear(); });
  expect_refused(third + " must have a number of rows from 1 on, got 9223372036854775807",
                 [](nlohmann::json& parts) { parts[2]["rows"] = std::numeric_limits<int64_t>::max(); });
  expect_refused(third + " must have a number of rows from 1 on, got -1",
                 [](nlohmann::json& parts) { parts[2]["rows"] = 1e300; });
  expect_refused("table.m.part-1-of-3.safetensors: m must be F32 [4166, 64], got F32 [4167, 64]",
                 [](nlohmann::json& parts) {
                   parts[0]["rows"] = 4166;
                   parts[1].update({{"first", 4166}, {"rows", 4168}});
                 });
  expect_refused("every table must belong to the model, got " + second,
                 [](nlohmann::json& parts) { parts[1]["base"] = "table.x.safetensors"; });
  expect_refused("must be a file table.*.safetensors, got x", [](nlohmann::json& parts) { parts[1]["base"] = "x"; });
  expect_refused("manifest.json: the manifest must list the files of tables",
                 [](nlohmann::json& parts) { parts[1].erase("deltas"); });
  expect_refused("manifest.json: the manifest must list the files of tables", [](nlohmann::json& parts) { parts = 3; });
}

TEST_F(DamagedParts, AMissingOrForeignFileLeavesTheCheckpointOut) {
  const auto left_out = [&](const std::string& why) {
    std::vector<std::string> notices;
    const auto notice = [&](const std::string& line) { notices.push_back(line); };
    EXPECT_EQ(open_latest(run_.path(), notice).step(), 1);
    EXPECT_THAT(notices, testing::ElementsAre(HasSubstr(why)));
  };
  const fs::path part = step_ / "optimizer.m.part-2-of-3.safetensors", kept = folder_ / "kept";
  fs::rename(part, kept);
  left_out("optimizer.m.part-2-of-3.safetensors: the file must be readable, got No such file");
  fs::copy(step_ / "optimizer.m.part-1-of-3.safetensors", part);  // as large
  left_out("optimizer.m.part-2-of-3.safetensors: the file must have the sum");
  fs::remove(part);
  fs::rename(kept, part);
  EXPECT_EQ(open_latest(run_.path(), {}).step(), 2);
}

TEST_F(DamagedParts, WholeOnesServeOneProcess) {
  RunProcess whole(run_, {}, {});
  for (const int64_t step : {1, 2}) whole.write(step);
  const at::Tensor expected = whole.task.table->store().values();
  const auto same = [&](const at::Tensor& rows, int64_t first) {
    return same_bytes(rows, expected.narrow(0, first, rows.size(0)));
  };
  const CheckpointReader checkpoint(step_);
  TableSpec spec = {.name = "m", .rows = 12501, .width = 64, .home = TableHome::mapped};
  const TablePtr served = serving_tables(checkpoint)(spec);
  load_table(checkpoint, *served);
  EXPECT_TRUE(same(served->store().values(), 0));
  int64_t first = 0;
  for (const auto& part : served_parts(checkpoint, "m")) {
    EXPECT_TRUE(same(part->values(), first));
    first += part->rows_here();
  }
  EXPECT_EQ(first, 12501);
  PartTask task({}, {});
  EXPECT_THAT(StartWeights(step_, {}).copy_into(task), HasSubstr("1 of 1 tables"));
  EXPECT_TRUE(same(task.table->store().values(), 0));
  const int64_t many = int64_t{1} << 40;
  rewrite_manifest(step_,
                   [&](nlohmann::json& manifest) { manifest["tables"]["m"]["parts"][2]["rows"] = many - 2 * 4167; });
  spec.rows = many;
  expect_error(ExitCode::resources, "table m must be in one file to be mapped, or fit into half of the memory",
               [&] { serving_tables(CheckpointReader(step_))(spec); });
}

}  // namespace
}  // namespace loci
