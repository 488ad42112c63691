// Legend: T tokens, K reads of a token, D width.
#include "loci/table/held_table.h"

#include <utility>

#include "loci/base/check.h"
#include "loci/table/row_reads.h"

namespace loci {

HeldTable::HeldTable(std::shared_ptr<RowStore> rows)
    : Table(rows->name(), rows->rows_here(), rows->width()), rows_(std::move(rows)) {
  if (rows_->first_row() != 0) {
    fail(ExitCode::bug, "table " + name(), "rows must begin at row 0", std::to_string(rows_->first_row()));
  }
}

at::Tensor HeldTable::read(const at::Tensor& index, const at::Tensor& weight, int64_t use) {
  return read_rows(*rows_, index, weight, use);
}

at::Tensor HeldTable::project(const at::Tensor& index, const at::Tensor& x, int64_t use) {
  return project_rows(*rows_, index, x, use);
}

}  // namespace loci
