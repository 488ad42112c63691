#include "loci/table/table_maker.h"

#include "loci/table/local_table.h"

namespace loci {

TableParts parts_of(TableShard shard, int64_t ranks, const TableReads& reads) {
  if (shard == TableShard::automatic) return cheaper_parts(ranks, reads);
  return shard == TableShard::columns && ranks > 1 ? TableParts::columns : TableParts::rows;
}

void start_rows(RowStore& rows, const TableSpec& spec) {
  if (spec.start_std > 0) rows.initialise_normal(spec.seed, spec.start_std);
}

TablePtr make_local_table(const TableSpec& spec) {
  auto table = std::make_shared<LocalTable>(spec.name, spec.rows, spec.width, LocalTableOptions{.dtype = spec.dtype});
  start_rows(table->store(), spec);
  return table;
}

}  // namespace loci
