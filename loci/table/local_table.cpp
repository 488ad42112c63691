// Legend: N rows, D width.
#include "loci/table/local_table.h"

#include <utility>

#include "loci/base/check.h"

namespace loci {

LocalTable::LocalTable(std::string name, int64_t rows, int64_t width, LocalTableOptions options)
    : Table(std::move(name), rows, width) {
  const std::string who = "table " + this->name();
  if (options.dtype != at::kFloat && options.dtype != at::kBFloat16 && options.dtype != at::kDouble &&
      options.dtype != at::kChar) {
    fail(ExitCode::usage, who, "dtype must be float32, bfloat16, float64 or int8", c10::toString(options.dtype));
  }
  values_ = zero_pages(who, rows, width, options.dtype, PageSize::huge);
  if (options.dtype == at::kChar) {
    scale_ = zero_pages(who, rows, 0, at::kFloat, PageSize::huge);
    set_gradient_mode(GradientMode::none);
  } else {
    values_.set_requires_grad(true);
  }
}

at::Tensor LocalTable::row_storage(const std::string& what, int64_t width, at::ScalarType dtype, PageSize page) {
  return zero_pages(fmt::format("{} of table {}", what, name()), rows(), width, dtype, page);
}

}  // namespace loci
