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
  int64_t bytes() const override;
  // Counter-based: N(0, std^2) by (seed, table name, row, column), so that a shard equals its part of the whole.
  void initialise_normal(uint64_t seed, double std);
  void initialise_zero();
  // Rows first .. first + n - 1 become `rows` [n, D], in the table's dtype: int8 by table/quantise.h.
  void set_rows(int64_t first, const at::Tensor& rows);

 private:
  at::Tensor values_;
  std::optional<at::Tensor> scale_;
};

}  // namespace loci
