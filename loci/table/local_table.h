// A table in memory, on huge pages where the system grants them.
#pragma once

#include "loci/table/held_table.h"

namespace loci {

struct LocalTableOptions {
  at::ScalarType dtype = at::kFloat;  // kFloat, kBFloat16, kDouble; kChar: int8 with a scale a row, frozen
};

class LocalRows : public RowStore {
 public:
  // Rows are zero at first. Throws Error (resources) when the memory is not available. int8 rows must be whole, for
  // their scale is.
  LocalRows(std::string name, RowRange range, ColumnRange columns, LocalTableOptions options = {});

  const at::Tensor& values() const override { return values_; }
  std::optional<at::Tensor> scale() const override { return scale_; }
  at::Tensor row_storage(const std::string& what, int64_t width, at::ScalarType dtype, PageSize page) override;
  void clear_storage(const at::Tensor& storage) override { return_pages(storage); }

 private:
  at::Tensor values_;
  std::optional<at::Tensor> scale_;
};

class LocalTable : public HeldTable {
 public:
  LocalTable(std::string name, int64_t rows, int64_t width, LocalTableOptions options = {});
};

}  // namespace loci
