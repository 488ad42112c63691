// Legend: T tokens, K reads of a token, D width.
#include "loci/table/held_table.h"

#include <algorithm>
#include <span>
#include <utility>

#include "loci/base/check.h"
#include "loci/table/row_reads.h"

namespace loci {

HeldTable::HeldTable(std::shared_ptr<RowStore> rows)
    : Table(rows->name(), rows->rows_here(), rows->width()), rows_(std::move(rows)) {
  if (rows_->first_row() != 0) {
    fail(ExitCode::bug, "table " + name(), "rows must begin at row 0", std::to_string(rows_->first_row()));
  }
  if (!rows_->columns().whole()) fail(ExitCode::bug, "table " + name(), "rows must be whole", "some columns");
}

at::Tensor HeldTable::read(const at::Tensor& index, const at::Tensor& weight, int64_t use) {
  return read_rows(*rows_, index, weight, use);
}

at::Tensor HeldTable::project(const at::Tensor& index, const at::Tensor& x, int64_t use) {
  return project_rows(*rows_, index, x, use);
}

void HeldTable::prefetch(const at::Tensor& rows) {
  TORCH_CHECK(rows.scalar_type() == at::kLong && rows.device() == device(), "Table::prefetch: rows must be int64 on ",
              device(), ", got ", rows.scalar_type(), " on ", rows.device());
  const at::Tensor dense = rows.contiguous();
  const std::span<const int64_t> numbers(dense.const_data_ptr<int64_t>(), static_cast<size_t>(dense.numel()));
  if (numbers.empty()) return;
  const auto [least, most] = std::ranges::minmax(numbers);
  TORCH_CHECK_INDEX(least >= 0 && most < this->rows(), "Table::prefetch: rows must be within 0 .. ", this->rows() - 1,
                    ", got ", least < 0 ? least : most);
  rows_->prefetch(numbers);
}

}  // namespace loci
