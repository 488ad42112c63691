// A table in parts on several ranks, and the part of a batch that each of them computes.
#pragma once

#include <torch/torch.h>

#include <algorithm>
#include <filesystem>
#include <memory>

#include "loci/distributed/exchange_cost.h"
#include "loci/table/local_table.h"
#include "loci/table/mapped_table.h"
#include "loci/table/sharded_table.h"

namespace loci {

// Its rows are those of a LocalTable named "memory" after initialise_normal(3, 1). With `folder`, mapped there.
inline std::shared_ptr<ShardedTable> make_sharded(const Ranks& ranks, int64_t rows, int64_t width,
                                                  at::ScalarType dtype = at::kFloat,
                                                  TableParts parts = TableParts::rows,
                                                  const std::filesystem::path& folder = {}) {
  const bool by_rows = parts == TableParts::rows;
  const RowRange part = by_rows ? ShardedTable::equal_part(rows, ranks) : RowRange{0, rows};
  const ColumnRange columns = by_rows ? width : ShardedTable::equal_columns("memory", width, ranks);
  std::shared_ptr<RowStore> here;
  if (folder.empty()) {
    here = std::make_shared<LocalRows>("memory", part, columns, LocalTableOptions{dtype});
  } else {
    here = std::make_shared<MappedRows>("memory", part, columns, dtype, folder);
  }
  here->initialise_normal(3, 1);
  return std::make_shared<ShardedTable>(ranks, here);
}

// What a rank's store has of a tensor [N, ...] of the whole table.
inline at::Tensor part_of(const at::Tensor& whole, const RowStore& here) {
  const at::Tensor rows = whole.narrow(0, here.first_row(), here.rows_here());
  return whole.dim() == 1 ? rows : rows.narrow(1, here.columns().first, here.columns().count);
}

// The contiguous slice of the batch's tokens that a rank computes; the last rank has none when `idle`.
inline at::Tensor slice(const at::Tensor& of_batch, const Ranks& ranks, bool idle = false) {
  const int64_t working = idle ? ranks.size - 1 : ranks.size, tokens = of_batch.size(0);
  const int64_t begin = tokens * std::min(ranks.rank, working) / working;
  const int64_t end = tokens * std::min(ranks.rank + 1, working) / working;
  return of_batch.narrow(0, begin, end - begin).clone();
}

}  // namespace loci
