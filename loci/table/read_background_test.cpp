#include "loci/table/read_background.h"

#include <ATen/ops/tensor.h>

#include <vector>

#include "loci/table/safetensors.h"
#include "tests/temporary_folder.h"

namespace loci {
namespace {

using Rows = std::vector<int64_t>;

// Row 0 is read by all three batches, row 1 by two, row 2 by one, the others by none.
ReadBackground three_batches() {
  ReadBackground background(6);
  background.add_batch(Rows{0, 1, 2, 0, 0});
  background.add_batch(Rows{1, 0});
  background.add_batch(Rows{0});
  return background;
}

TEST(ReadBackground, CountsBatchesAndNotReads) {
  const ReadBackground background = three_batches();
  EXPECT_EQ(background.batches(), 3);
  EXPECT_EQ(Rows(background.reading_batches().begin(), background.reading_batches().end()), (Rows{3, 2, 1, 0, 0, 0}));
}

TEST(ReadBackground, AsAnObserverItCountsAForwardPassAsABatch) {
  ReadBackground background(6);
  background.reads({.output = {},
                    .score = {},
                    .index = at::tensor({4, 0, 4, 4}, at::kLong).view({2, 2, 1}).transpose(0, 1),
                    .weight = {}});
  EXPECT_EQ(background.batches(), 1);
  EXPECT_EQ(Rows(background.reading_batches().begin(), background.reading_batches().end()), (Rows{1, 0, 0, 0, 1, 0}));
}

// Shares of reads times ln(4 / (b + 1)): row 0: 6/12 ln 1 = 0; row 1: 3/12 ln 4/3 = 0.072; row 2: 2/12 ln 2 = 0.116;
// row 5: 1/12 ln 4 = 0.116 (twice ln 2 at half the reads, the same number), so the lower row 2 comes first.
TEST(ReadBackground, RowsReadMoreThanUsualComeFirstAndTiesGoToTheLowestRow) {
  const ReadBackground background = three_batches();
  const Rows batch = {0, 5, 0, 1, 2, 0, 1, 0, 2, 0, 1, 0};
  EXPECT_EQ(background.unusual_rows(batch, 1), (Rows{2}));
  EXPECT_EQ(background.unusual_rows(batch, 2), (Rows{2, 5}));
  EXPECT_EQ(background.unusual_rows(batch, 3), (Rows{1, 2, 5}));
  EXPECT_EQ(background.unusual_rows(batch, 100), (Rows{0, 1, 2, 5}));
  EXPECT_EQ(background.unusual_rows(batch, 0), Rows{});
  EXPECT_EQ(background.unusual_rows(Rows{}, 3), Rows{});
}

TEST(ReadBackground, WithoutBackgroundAllScoresAreEqual) {
  const ReadBackground background(6);  // share * ln 1
  EXPECT_EQ(background.unusual_rows(Rows{5, 5, 3, 1}, 2), (Rows{1, 3}));
}

TEST(ReadBackground, SavedAndLoadedItIsTheSame) {
  const TemporaryFolder folder;
  three_batches().save(folder / "background.safetensors");
  const ReadBackground loaded = ReadBackground::load(folder / "background.safetensors");
  EXPECT_EQ(loaded.batches(), 3);
  EXPECT_EQ(loaded.rows(), 6);
  EXPECT_EQ(loaded.unusual_rows(Rows{0, 2, 5}, 2), three_batches().unusual_rows(Rows{0, 2, 5}, 2));
}

TEST(ReadBackground, BadRowsAndFilesAreRefusedAndChangeNothing) {
  ReadBackground background = three_batches();
  expect_error(ExitCode::bug, "rows must be within 0 .. 5, got 6", [&] { background.add_batch(Rows{0, 6}); });
  expect_error(ExitCode::bug, "got -1", [&] { (void)background.unusual_rows(Rows{0, -1}, 1); });
  expect_error(ExitCode::usage, "most must be at least 0", [&] { (void)background.unusual_rows(Rows{0}, -1); });
  expect_error(ExitCode::usage, "rows must be at least 1", [] { ReadBackground nothing(0); });
  EXPECT_EQ(background.batches(), 3);
  EXPECT_EQ(background.reading_batches()[0], 3);

  const TemporaryFolder folder;
  const auto path = folder / "background.safetensors";
  const auto file_with = [&](const std::vector<int32_t>& reading, const Rows& batches) {
    write_safetensors(path, {{"reading", DType::I32, {int64_t(reading.size())}, std::as_bytes(std::span(reading))},
                             {"batches", DType::I64, {int64_t(batches.size())}, std::as_bytes(std::span(batches))}});
  };
  for (const auto& [reading, batches] :
       {std::pair<std::vector<int32_t>, Rows>{{1, 4}, {3}}, {{-1}, {3}}, {{}, {3}}, {{1}, {}}}) {
    file_with(reading, batches);
    expect_error(ExitCode::input, "counts must be within", [&] { (void)ReadBackground::load(path); });
  }
}

}  // namespace
}  // namespace loci
