// A table that is in parts on the ranks of a process group, in memory or mapped: rank p holds consecutive rows, or
// consecutive columns of all rows.
//
// Legend: T tokens of this rank, K reads of a token, N rows, D width, P ranks.
//
// By rows, a read sends row numbers and weights to the ranks that hold the rows; each of them returns one weighted sum
// for all rows of a token that it has, and the sums are added in the order of ranks. Backward sends the gradient of the
// output to the same ranks, which keep the row references and return the gradients of weights.
//
// By columns, every rank gets the row numbers and weights of all tokens and returns its columns of their sums. Backward
// sends each rank its columns of the gradient; the gradients of weights are inner products of columns, added in the
// order of ranks. Every rank keeps the references of all tokens, and knows of each row what an optimiser counts of it.
//
// Either way:
//   - every rank calls read, project and backward together, in the same order, also with T = 0;
//   - results equal those of one process up to the rounding of sums, for the order of sums differs;
//   - row references have the order and, for equal gradients of outputs, the bits that one process would give them with
//     the tokens of all ranks in their order;
//   - gradients of rows are sums over ranks, never means: OptimizerSet::step divides them with the others.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "loci/distributed/collectives.h"
#include "loci/table/row_store.h"
#include "loci/table/table.h"

namespace loci {

struct RowShards;

class ShardedTable : public Table {
 public:
  // `here`: the part of this rank, some columns of all rows or some rows. Every rank makes the table, and each begins
  // where the one before it ends, at row or column 0 the first; a rank may have no rows. Otherwise Error (usage), on
  // all ranks. One of several ranks must not have all columns of a table that is in parts by columns.
  ShardedTable(Ranks ranks, std::shared_ptr<RowStore> here);
  // The rows or columns of this rank when all have as many, the first ones one more. Throws Error (usage) for fewer
  // columns than ranks.
  static RowRange equal_part(int64_t rows, const Ranks& ranks);
  static ColumnRange equal_columns(const std::string& table, int64_t width, const Ranks& ranks);

  c10::ScalarType dtype() const override { return here_->values().scalar_type(); }
  c10::Device device() const override { return here_->values().device(); }
  at::Tensor read(const at::Tensor& index, const at::Tensor& weight, int64_t use) override;
  at::Tensor project(const at::Tensor& index, const at::Tensor& x, int64_t use) override;
  // Does nothing: the rank that holds a row fetches it when its number arrives.
  void prefetch(const at::Tensor& rows) override;
  // By columns, an equal part of the rows, which every rank has in its store.
  RowRange own_rows() const override;
  RowStore& store() override { return *here_; }
  const RowStore& store() const override { return *here_; }
  const std::shared_ptr<const RowShards>& shards() const { return shards_; }

 private:
  ShardedTable(RowShards shards, std::shared_ptr<RowStore> here);

  std::shared_ptr<const RowShards> shards_;
  std::shared_ptr<RowStore> here_;
};

}  // namespace loci
