// Legend: N rows, D width.
#include "loci/table/local_table.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include "loci/base/progress.h"
#include "loci/base/random.h"
#include "tests/temporary_folder.h"

namespace loci {
namespace {

constexpr int64_t kHugePage = int64_t{2} << 20;

TEST(LocalTable, StartsAtZeroOnAHugePagesBoundary) {
  for (const auto dtype : {at::kFloat, at::kBFloat16, at::kDouble}) {
    const LocalTable table("memory", 33, 7, {dtype});
    EXPECT_EQ(table.store().values().sizes(), at::IntArrayRef({33, 7}));
    EXPECT_EQ(table.store().values().scalar_type(), dtype);
    EXPECT_EQ(table.store().bytes(), 33 * 7 * static_cast<int64_t>(c10::elementSize(dtype)));
    EXPECT_EQ(reinterpret_cast<uintptr_t>(table.store().values().data_ptr()) % kHugePage, 0U);
    EXPECT_EQ(table.store().values().count_nonzero().item<int64_t>(), 0);
  }
}

TEST(LocalTable, UntouchedRowsCostNoMemory) {
  const int64_t before = resident_bytes();
  const LocalTable table("memory", int64_t{1} << 20, 512);  // 2 GiB
  table.store().values().data()[12345].fill_(1);
  EXPECT_LT(resident_bytes() - before, int64_t{64} << 20);
}

TEST(LocalTable, DrawsTheSameNumbersForAnyThreadCountAndPart) {
  const int threads = at::get_num_threads();
  LocalTable whole("memory", 3000, 5);
  whole.store().initialise_normal(7, 0.5);
  for (const int count : {1, 3, 8}) {
    at::set_num_threads(count);
    LocalTable again("memory", 3000, 5);
    again.store().initialise_normal(7, 0.5);
    EXPECT_TRUE(torch::equal(again.store().values(), whole.store().values()));
    for (const RowRange range : {RowRange{0, 100}, RowRange{100, 1}, RowRange{101, 2899}, RowRange{3000, 0}}) {
      const auto part = std::make_shared<LocalRows>("memory", range, 5);
      part->initialise_normal(7, 0.5);
      EXPECT_TRUE(torch::equal(part->values(), whole.store().values().narrow(0, range.first, range.count)));
    }
  }
  at::set_num_threads(threads);
  EXPECT_NEAR(whole.store().values().std().item<double>(), 0.5, 0.02);
  EXPECT_NEAR(whole.store().values().mean().item<double>(), 0, 0.02);
}

TEST(LocalTable, DrawsOtherNumbersForAnotherNameOrSeed) {
  LocalTable a("a", 10, 4), b("b", 10, 4), c("a", 10, 4);
  a.store().initialise_normal(1, 1);
  b.store().initialise_normal(1, 1);
  c.store().initialise_normal(2, 1);
  EXPECT_EQ(a.store().values().eq(b.store().values()).sum().item<int64_t>(), 0);
  EXPECT_EQ(a.store().values().eq(c.store().values()).sum().item<int64_t>(), 0);
  LocalTable low("a", 10, 4, {at::kBFloat16});
  low.store().initialise_normal(1, 1);
  EXPECT_TRUE(torch::equal(low.store().values(), a.store().values().to(at::kBFloat16)));
}

TEST(LocalTable, BecomesZeroAgainAndGivesItsPagesBack) {
  LocalTable table("memory", 1 << 16, 256);  // 64 MiB
  table.store().initialise_normal(1, 1);
  const int64_t before = resident_bytes();
  table.store().initialise_zero();
  EXPECT_LT(resident_bytes(), before - (int64_t{60} << 20));
  EXPECT_EQ(table.store().values().count_nonzero().item<int64_t>(), 0);
}

TEST(LocalTable, HoldsFrozenInt8RowsWithTheirScales) {
  torch::manual_seed(1);
  auto table = std::make_shared<LocalTable>("memory", 20, 9, LocalTableOptions{at::kChar});
  EXPECT_EQ(table->store().bytes(), 20 * 9 + 20 * 4);
  const torch::Tensor rows = torch::randn({12, 9});
  table->store().set_rows(5, rows);
  const torch::Tensor held = table->store().values().to(at::kFloat) * table->store().scale()->unsqueeze(1);
  EXPECT_TRUE(((held.slice(0, 5, 17) - rows).abs() <= table->store().scale()->slice(0, 5, 17).unsqueeze(1) * 0.5001)
                  .all()
                  .item<bool>());
  EXPECT_EQ(held.slice(0, 0, 5).count_nonzero().item<int64_t>() + held.slice(0, 17).count_nonzero().item<int64_t>(), 0);

  const int64_t use = table->register_use();
  const torch::Tensor index = torch::randint(20, {6, 4}, at::kLong), weight = torch::rand({6, 4}).requires_grad_();
  const torch::Tensor out = table->read(index, weight, use);
  EXPECT_TRUE(torch::allclose(out, (held.index_select(0, index.view(-1)).view({6, 4, 9}) * weight.unsqueeze(2)).sum(1),
                              1e-5, 1e-5));
  out.sum().backward();
  EXPECT_TRUE(table->store().references().empty());
  EXPECT_EQ(weight.grad().sizes(), weight.sizes());
  expect_error(ExitCode::usage, "served or int8 rows must stay frozen", [&] { table->set_frozen(false); });
  EXPECT_THROW(table->store().initialise_normal(1, 1), Error);
  EXPECT_THROW(table->store().set_rows(9, rows), c10::Error);
  table->store().initialise_zero();
  EXPECT_EQ(table->read(index, weight, use).count_nonzero().item<int64_t>(), 0);
}

TEST(LocalTable, TakesRowsInItsDtype) {
  torch::manual_seed(2);
  const torch::Tensor rows = torch::randn({4, 5});
  for (const auto dtype : {at::kFloat, at::kBFloat16}) {
    LocalTable table("memory", 10, 5, {dtype});
    table.store().set_rows(6, rows);
    EXPECT_TRUE(torch::equal(table.store().values().slice(0, 6), rows.to(dtype)));
  }
}

TEST(LocalTable, ImpossibleSizesAreRefusedBeforeMemoryIsTouched) {
  const int64_t before = resident_bytes();
  const auto refused = [](int64_t rows, int64_t width, ExitCode code, const std::string& message) {
    try {
      const LocalTable table("memory", rows, width);
      ADD_FAILURE() << "expected: " << message;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), code);
      EXPECT_NE(std::string(error.what()).find(message), std::string::npos) << error.what();
    }
  };
  refused(int64_t{10'000'000'000}, 1024, ExitCode::resources,
          "table memory: 37.3 TiB of memory must be available, got");
  refused(int64_t{1} << 62, 1024, ExitCode::usage, "rows x width must fit 63 bits");
  refused(int64_t{1} << 61, 1, ExitCode::usage, "bytes must fit 63 bits");
  refused(0, 8, ExitCode::usage, "rows must be at least 1, got 0");
  refused(8, -1, ExitCode::usage, "width must be at least 1, got -1");
  EXPECT_LT(resident_bytes() - before, int64_t{16} << 20);
  expect_error(ExitCode::usage, "rows must be at least 0, got -3", [] { LocalRows("memory", {-3, 8}, 8); });
  expect_error(ExitCode::usage, "rows must fit 63 bits", [] { LocalRows("memory", {INT64_MAX, 1}, 8); });
  expect_error(ExitCode::bug, "rows must begin at row 0, got 5",
               [] { HeldTable(std::make_shared<LocalRows>("memory", RowRange{5, 8}, 8)); });
  EXPECT_THROW(LocalTable("memory", 8, 8, {at::kHalf}), Error);
}

}  // namespace
}  // namespace loci
