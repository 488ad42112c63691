// How a model gets its tables: the model says what it needs, a maker decides where the rows are.
#pragma once

#include <functional>
#include <string>

#include "loci/distributed/exchange_cost.h"
#include "loci/table/table.h"

namespace loci {

enum class TableHome { memory, mapped };
// How several ranks share a table; automatic: the parts that send fewer bytes.
enum class TableShard { rows, columns, automatic };
TableParts parts_of(TableShard shard, int64_t ranks, const TableReads& reads);

struct TableSpec {
  std::string name;
  int64_t rows = 0;
  int64_t width = 0;
  at::ScalarType dtype = at::kFloat;
  TableHome home = TableHome::memory;  // where the configuration wants it
  double start_std = 0;                // rows start as N(0, start_std^2) by `seed`; 0: as zeros
  uint64_t seed = 0;
  TableShard shard = TableShard::rows;
  int64_t reads = 1;  // of a token in one pass
};

using TableMaker = std::function<TablePtr(const TableSpec& spec)>;

// Draws the rows of a store that is zero.
void start_rows(RowStore& rows, const TableSpec& spec);
// A maker that puts every table into memory.
TablePtr make_local_table(const TableSpec& spec);

}  // namespace loci
