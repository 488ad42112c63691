// One pass of reads of a table that is in parts on several ranks, and its gradients: the common part of ShardedTable
// and of the operators for Python. Every rank calls these functions together, in the same order, also with T = 0.
//
// Legend: T tokens of this rank, K reads of a token, N rows, D width, P ranks; A, C and E: read_exchange.h.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "loci/distributed/collectives.h"
#include "loci/distributed/exchange_cost.h"
#include "loci/distributed/read_exchange.h"
#include "loci/table/row_reads.h"
#include "loci/table/row_store.h"

namespace loci {

// The parts of a table.
struct RowShards {
  Ranks ranks;
  TableParts parts;
  std::vector<int64_t> first;  // [P + 1]: where the rows or columns of each rank begin, and the number of all
  int64_t rows, width;         // N, D
};

// What the forward pass leaves for backward.
struct ShardedPass {
  std::shared_ptr<const ReadExchange> exchange;
  at::Tensor came;  // the input as it came here: weight [A, C] of a read, x [A, E] of a projection
};

// index [T, K] must be rows of the table.
void check_sharded_index(const char* who, const RowShards& shards, const RowStore& here, const at::Tensor& index);
// The same, and input must be weight [T, K] or x [T, D], in the dtype of sums.
void check_sharded_access(const char* who, RowAccess access, const RowShards& shards, const RowStore& here,
                          const at::Tensor& index, const at::Tensor& input);

// Plans the exchange and sends the input.
ShardedPass begin_pass(RowAccess access, const RowShards& shards, const at::Tensor& index, const at::Tensor& input);
// Sums of rows [T, D] of a read, inner products [T, K] of a projection.
at::Tensor access_shards(RowAccess access, const ShardedPass& pass, RowStore& here);

struct ShardedGradient {
  at::Tensor input;            // undefined unless wanted
  RowReferences references{};  // to rows here, counted from the first one here
};

ShardedGradient gradient_of_shards(RowAccess access, const ShardedPass& pass, const RowStore& here,
                                   const at::Tensor& grad, bool input_wanted);

}  // namespace loci
