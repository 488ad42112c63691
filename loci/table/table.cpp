// Legend: N rows, D width.
#include "loci/table/table.h"

#include <ATen/core/Tensor.h>

#include <utility>

#include "loci/base/check.h"
#include "loci/table/row_store.h"

namespace loci {

Table::Table(std::string name, int64_t rows, int64_t width) : name_(std::move(name)), rows_(rows), width_(width) {
  if (rows < 1) fail(ExitCode::usage, "table " + name_, "rows must be at least 1", std::to_string(rows));
  if (width < 1) fail(ExitCode::usage, "table " + name_, "width must be at least 1", std::to_string(width));
}

c10::ScalarType Table::sum_dtype() const {
  return dtype() == at::kDouble ? at::kDouble : at::kFloat;
}

RowRange Table::own_rows() const {
  return {store().first_row(), store().rows_here()};
}

int64_t Table::register_use() {
  return store().references().register_use();
}

void Table::set_frozen(bool frozen) {
  store().set_frozen(frozen);
}

bool Table::frozen() const {
  return store().frozen();
}

void Table::set_trained_rows(const at::Tensor& mask) {
  TORCH_CHECK(!mask.defined() || (mask.scalar_type() == at::kBool && mask.sizes() == at::IntArrayRef{rows_}), "table ",
              name_, ": trained rows must be bool [", rows_, "], got ", mask.scalar_type(), " ", mask.sizes());
  RowStore& here = store();
  here.references().set_trained_rows(mask.defined() ? mask.narrow(0, here.first_row(), here.rows_here()) : mask);
}

}  // namespace loci
