// A table with its rows on several ranks, and the part of a batch that each of them computes.
#pragma once

#include <torch/torch.h>

#include <algorithm>
#include <memory>

#include "loci/table/local_table.h"
#include "loci/table/sharded_table.h"

namespace loci {

// Its rows are those of a LocalTable named "memory" after initialise_normal(3, 1).
inline std::shared_ptr<ShardedTable> make_sharded(const Ranks& ranks, int64_t rows, int64_t width,
                                                  at::ScalarType dtype = at::kFloat) {
  const RowRange part = ShardedTable::equal_part(rows, ranks);
  const auto here = std::make_shared<LocalRows>("memory", part, width, LocalTableOptions{dtype});
  here->initialise_normal(3, 1);
  return std::make_shared<ShardedTable>(ranks, here);
}

// The contiguous slice of the batch's tokens that a rank computes; the last rank has none when `idle`.
inline at::Tensor slice(const at::Tensor& of_batch, const Ranks& ranks, bool idle = false) {
  const int64_t working = idle ? ranks.size - 1 : ranks.size, tokens = of_batch.size(0);
  const int64_t begin = tokens * std::min(ranks.rank, working) / working;
  const int64_t end = tokens * std::min(ranks.rank + 1, working) / working;
  return of_batch.narrow(0, begin, end - begin).clone();
}

}  // namespace loci
