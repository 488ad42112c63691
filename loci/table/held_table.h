// A table whose rows are all in one store of this process.
#pragma once

#include "loci/table/row_store.h"
#include "loci/table/table.h"

namespace loci {

class HeldTable : public Table {
 public:
  explicit HeldTable(std::shared_ptr<RowStore> rows);  // rows must begin at row 0

  c10::ScalarType dtype() const override { return rows_->values().scalar_type(); }
  c10::Device device() const override { return rows_->values().device(); }
  at::Tensor read(const at::Tensor& index, const at::Tensor& weight, int64_t use) override;
  at::Tensor project(const at::Tensor& index, const at::Tensor& x, int64_t use) override;
  void prefetch(const at::Tensor& rows) override;
  RowStore& store() override { return *rows_; }
  const RowStore& store() const override { return *rows_; }

 private:
  std::shared_ptr<RowStore> rows_;
};

}  // namespace loci
