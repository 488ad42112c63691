// A table in memory, on huge pages where the system grants them.
#pragma once

#include "loci/table/table.h"

namespace loci {

struct LocalTableOptions {
  at::ScalarType dtype = at::kFloat;  // kFloat, kBFloat16, kChar: int8 with a scale a row, frozen (kDouble for tests)
};

class LocalTable : public Table {
 public:
  // Rows are zero until init. Throws Error (resources) when the memory cannot be had.
  LocalTable(std::string name, int64_t rows, int64_t width, LocalTableOptions options = {});

  const at::Tensor& values() const override { return values_; }
  std::optional<at::Tensor> scale() const override { return scale_; }
  at::Tensor row_storage(const std::string& what, int64_t width, at::ScalarType dtype, PageSize page) override;
  void clear_storage(const at::Tensor& storage) override { return_pages(storage); }

 private:
  at::Tensor values_;
  std::optional<at::Tensor> scale_;
};

}  // namespace loci
