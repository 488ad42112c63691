// Legend: R rows here, D width.
#include "loci/table/local_table.h"

#include <utility>

#include "loci/base/check.h"

namespace loci {

LocalRows::LocalRows(std::string name, RowRange range, ColumnRange columns, LocalTableOptions options)
    : RowStore(std::move(name), range, columns) {
  const std::string who = "table " + this->name();
  if (options.dtype != at::kFloat && options.dtype != at::kBFloat16 && options.dtype != at::kDouble &&
      options.dtype != at::kChar) {
    fail(ExitCode::usage, who, "dtype must be float32, bfloat16, float64 or int8", c10::toString(options.dtype));
  }
  if (options.dtype == at::kChar && !columns.whole()) {
    fail(ExitCode::usage, who, "int8 rows must be whole", fmt::format("{} of {} columns", columns.count, columns.all));
  }
  values_ = zero_pages(who, range.count, columns.count, options.dtype, PageSize::huge);
  if (options.dtype == at::kChar) scale_ = zero_pages(who, range.count, 0, at::kFloat, PageSize::huge);
  set_frozen(options.dtype == at::kChar);
}

at::Tensor LocalRows::row_storage(const std::string& what, int64_t width, at::ScalarType dtype, PageSize page) {
  return zero_pages(fmt::format("{} of table {}", what, name()), rows_here(), width, dtype, page);
}

LocalTable::LocalTable(std::string name, int64_t rows, int64_t width, LocalTableOptions options)
    : HeldTable(std::make_shared<LocalRows>(std::move(name), RowRange{0, rows}, width, options)) {}

}  // namespace loci
