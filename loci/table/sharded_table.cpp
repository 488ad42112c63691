// Legend: P ranks.
#include "loci/table/sharded_table.h"

#include <string>
#include <utility>

#include "loci/base/check.h"
#include "loci/distributed/exchange_plan.h"
#include "loci/ops/operator.h"
#include "loci/table/sharded_reads.h"

namespace loci {
namespace {

using at::Tensor;

// The part of a rank, as the others see it.
struct PartFacts {
  TableParts parts;
  int64_t first, count;        // rows or columns
  int64_t rows, width, dtype;  // rows: of parts by columns alone
};

PartFacts facts_of(const RowStore& here) {
  const ColumnRange& columns = here.columns();
  const auto dtype = static_cast<int64_t>(here.values().scalar_type());
  if (columns.whole()) return {TableParts::rows, here.first_row(), here.rows_here(), 0, columns.all, dtype};
  const int64_t rows = here.first_row() == 0 ? here.rows_here() : -1;
  return {TableParts::columns, columns.first, columns.count, rows, columns.all, dtype};
}

std::vector<PartFacts> gather_facts(const Ranks& ranks, const PartFacts& mine) {
  const std::vector<int64_t> numbers = {
      static_cast<int64_t>(mine.parts), mine.first, mine.count, mine.rows, mine.width, mine.dtype};
  std::vector<PartFacts> all;
  for (const auto& n : swap_numbers(ranks, std::vector(static_cast<size_t>(ranks.size), numbers))) {
    all.push_back({static_cast<TableParts>(n[0]), n[1], n[2], n[3], n[4], n[5]});
  }
  return all;
}

RowShards shards_of(const Ranks& ranks, const RowStore& here) {
  const std::vector<PartFacts> all = gather_facts(ranks, facts_of(here));
  const PartFacts& mine = all[static_cast<size_t>(ranks.rank)];
  const std::string what = name_of(mine.parts);
  std::vector<int64_t> first = {0};
  for (size_t p = 0; p < all.size(); ++p) {
    const PartFacts& part = all[p];
    const auto require = [&](bool holds, const std::string& expected, const std::string& got) {
      if (!holds) {
        fail(ExitCode::usage, "table " + here.name() + ", rank " + std::to_string(p), expected, got);
      }
    };
    const std::string of_mine = " must be those of rank " + std::to_string(ranks.rank);
    require(part.parts == mine.parts, "parts must be by " + what + " as on rank " + std::to_string(ranks.rank),
            name_of(part.parts));
    require(part.first == first.back(), what + " must begin at " + std::to_string(first.back()),
            std::to_string(part.first));
    require(part.width == mine.width && part.dtype == mine.dtype, "width and dtype" + of_mine,
            "width " + std::to_string(part.width) + ", dtype " + toString(static_cast<at::ScalarType>(part.dtype)));
    require(part.rows == mine.rows && part.rows >= 0, "a part by columns must have all rows", "some");
    first.push_back(first.back() + part.count);
  }
  const bool by_rows = mine.parts == TableParts::rows;
  if (!by_rows && first.back() != mine.width) {
    fail(ExitCode::usage, "table " + here.name(), "parts must have " + std::to_string(mine.width) + " columns",
         std::to_string(first.back()));
  }
  return {ranks, mine.parts, first, by_rows ? first.back() : mine.rows, mine.width};
}

struct PassHandle : torch::CustomClassHolder {
  PassHandle(std::shared_ptr<RowStore> rows, ShardedPass pass) : rows(std::move(rows)), pass(std::move(pass)) {}
  std::shared_ptr<RowStore> rows;
  ShardedPass pass;
};

template <RowAccess kAccess>
std::vector<Tensor> sharded_gradient(const BackwardPass& pass) {
  const auto capsule = pass.constants[0].toCapsule();
  const auto& handle = static_cast<PassHandle&>(*capsule);
  auto [input, references] =
      gradient_of_shards(kAccess, handle.pass, *handle.rows, pass.grad[0].detach(), pass.needed[1]);
  references.pass = pass.constants[1].toInt();
  references.use = pass.constants[2].toInt();
  if (!handle.rows->frozen()) handle.rows->references().add(std::move(references));
  return {Tensor(), input};
}

template <RowAccess kAccess>
Tensor sharded_access(const char* who, const RowShards& shards, const std::shared_ptr<RowStore>& rows,
                      const Tensor& index, const Tensor& input, int64_t use) {
  check_sharded_access(who, kAccess, shards, *rows, index, input);
  rows->references().check_use(use);
  return once_differentiable<sharded_gradient<kAccess>>(who, {rows->values(), input}, [&] {
    const ShardedPass pass = begin_pass(kAccess, shards, index, input);
    const auto handle = c10::make_intrusive<PassHandle>(rows, pass);
    return ForwardPass{{access_shards(kAccess, pass, *rows)},
                       {rows->values()},  // written since: backward refuses
                       {c10::IValue::make_capsule(handle), rows->references().next_pass(use), use}};
  })[0];
}

}  // namespace

ShardedTable::ShardedTable(Ranks ranks, std::shared_ptr<RowStore> here) : ShardedTable(shards_of(ranks, *here), here) {}

ShardedTable::ShardedTable(RowShards shards, std::shared_ptr<RowStore> here)
    : Table(here->name(), shards.rows, shards.width),
      shards_(std::make_shared<const RowShards>(std::move(shards))),
      here_(std::move(here)) {
  if (shards_->parts == TableParts::columns) here_->set_column_sum(sum_over(shards_->ranks));
}

RowRange ShardedTable::equal_part(int64_t rows, const Ranks& ranks) {
  const std::vector<int64_t> first = equal_parts(rows, ranks.size);
  const auto rank = static_cast<size_t>(ranks.rank);
  return {first[rank], first[rank + 1] - first[rank]};
}

ColumnRange ShardedTable::equal_columns(const std::string& table, int64_t width, const Ranks& ranks) {
  if (width < ranks.size) {
    fail(ExitCode::usage, "table " + table, "columns must be at least as many as ranks, " + std::to_string(ranks.size),
         std::to_string(width));
  }
  const RowRange part = equal_part(width, ranks);
  return {part.first, part.count, width};
}

RowRange ShardedTable::own_rows() const {
  if (shards_->parts == TableParts::columns) return equal_part(rows(), shards_->ranks);
  return Table::own_rows();
}

Tensor ShardedTable::read(const Tensor& index, const Tensor& weight, int64_t use) {
  return sharded_access<RowAccess::read>("ShardedTable::read", *shards_, here_, index, weight, use);
}

Tensor ShardedTable::project(const Tensor& index, const Tensor& x, int64_t use) {
  return sharded_access<RowAccess::project>("ShardedTable::project", *shards_, here_, index, x, use);
}

void ShardedTable::prefetch(const Tensor& rows) {
  check_sharded_index("ShardedTable::prefetch", *shards_, *here_, rows.reshape({1, -1}));
}

}  // namespace loci
