// Legend: T tokens, d width.
#include "loci/nn/memory/table_archive.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <sstream>

#include "loci/nn/memory/peer_memory.h"
#include "loci/table/local_table.h"
#include "loci/table/mapped_table.h"
#include "tests/temporary_folder.h"

namespace loci {
namespace {

using at::Tensor;

constexpr int64_t kArchiveRows = 50, kArchiveWidth = 6;

TablePtr archived_table(uint64_t seed, int64_t rows = kArchiveRows, at::ScalarType dtype = at::kFloat) {
  auto table = std::make_shared<LocalTable>("rows", rows, kArchiveWidth, LocalTableOptions{.dtype = dtype});
  if (dtype == at::kChar) {
    table->store().set_rows(0, torch::randn({rows, kArchiveWidth}));
  } else {
    table->store().initialise_normal(seed, 1);
  }
  return table;
}

std::shared_ptr<ProductKeyMemory> archived_memory(const TablePtr& table, uint64_t seed) {
  ProductKeyMemoryOptions options;
  options.width = kArchiveWidth;
  options.top_k = 3;
  options.key_width = 8;
  return std::make_shared<ProductKeyMemory>("memory", options, table, seed);
}

std::string saved(const auto& network) {
  std::ostringstream out;
  torch::save(network, out);
  return out.str();
}

void load(auto& network, const std::string& bytes) {
  std::istringstream in(bytes);
  torch::load(network, in);
}

TEST(TableArchive, ASavedNetworkIsTheSameWhenLoaded) {
  const Tensor x = torch::randn({9, kArchiveWidth});
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16, at::kChar}) {
    const TablePtr table = archived_table(1, kArchiveRows, dtype), other = archived_table(2, kArchiveRows, dtype);
    torch::nn::Sequential network(torch::nn::Linear(kArchiveWidth, kArchiveWidth), archived_memory(table, 1));
    torch::nn::Sequential loaded(torch::nn::Linear(kArchiveWidth, kArchiveWidth), archived_memory(other, 2));
    const void* storage = other->store().values().const_data_ptr();
    const bool frozen = other->frozen();
    ASSERT_FALSE(torch::equal(network->forward(x), loaded->forward(x)));
    load(loaded, saved(network));
    EXPECT_TRUE(torch::equal(network->forward(x), loaded->forward(x)));
    EXPECT_TRUE(torch::equal(table->store().values(), other->store().values()));
    EXPECT_EQ(other->store().values().const_data_ptr(), storage);
    EXPECT_EQ(other->frozen(), frozen);
    EXPECT_TRUE(other->store().changed_rows().all());  // so that the next checkpoint holds them
  }
}

TEST(TableArchive, BothTablesOfPeerAreSaved) {
  ProductKeyMemoryOptions options;
  options.width = kArchiveWidth;
  options.top_k = 3;
  options.key_width = 8;
  const auto memory = [&](uint64_t seed) {
    return std::make_shared<PeerMemory>("peer", options, archived_table(seed), archived_table(seed + 1), seed);
  };
  auto network = memory(1), loaded = memory(5);
  load(loaded, saved(network));
  const Tensor x = torch::randn({9, kArchiveWidth});
  EXPECT_TRUE(torch::equal(network->forward(x), loaded->forward(x)));
}

TEST(TableArchive, ATableOfTwoLayersIsWrittenOnce) {
  const int64_t rows = 20'000, bytes = rows * kArchiveWidth * 4;
  const TablePtr table = archived_table(1, rows);
  torch::nn::Sequential one(archived_memory(table, 1)), two(archived_memory(table, 1), archived_memory(table, 2));
  EXPECT_GT(std::ssize(saved(one)), bytes);
  EXPECT_LT(std::ssize(saved(two)), bytes + bytes / 2);
}

TEST(TableArchive, RowsThatDoNotFitAreRefused) {
  const std::string bytes = saved(archived_memory(archived_table(1, 64), 1));  // as many sub-keys as for 60 rows
  for (const auto& [other, message] :
       {std::pair(archived_table(1, 60), "table rows: saved values must be Float [60, 6], got Float [64, 6]"),
        std::pair(archived_table(1, 64, at::kBFloat16), "saved values must be BFloat16 [64, 6], got Float [64, 6]")}) {
    auto memory = archived_memory(other, 1);
    try {
      load(memory, bytes);
      ADD_FAILURE() << "no error with: " << message;
    } catch (const c10::Error& error) {
      EXPECT_THAT(error.what(), testing::HasSubstr(message));
    }
  }
}

TEST(TableArchive, AServedTableKeepsItsRows) {
  const TemporaryFolder folder;
  const MappedTable trained("rows", kArchiveRows, kArchiveWidth, at::kFloat, folder.path());
  auto memory = archived_memory(std::make_shared<ServedTable>(folder / "table.rows.safetensors", "rows"), 1);
  const std::string bytes = saved(archived_memory(archived_table(1), 1));
  expect_error(ExitCode::usage, "a served table must keep the rows of its file", [&] { load(memory, bytes); });
}

}  // namespace
}  // namespace loci
