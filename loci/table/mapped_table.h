// A table whose rows are in a safetensors file, so that it may be larger than memory. Same bits as LocalTable.
//
// The kernel keeps in memory what is read and written often, and reads the rest from the disk. A file that is cut short
// under a running process ends it with SIGBUS; loci's command line turns that into a message.
#pragma once

#include <filesystem>
#include <list>
#include <memory>
#include <string>

#include "loci/table/held_table.h"
#include "loci/table/mapped_tensor.h"

namespace loci {

// For training: the rows, and what optimisers keep for them, each in a file of its own.
class MappedRows : public RowStore {
 public:
  // Makes FOLDER/table.NAME.safetensors, zero; row_storage() adds FOLDER/table.NAME.WHAT.safetensors. The files stay
  // when the store goes. Throws Error (resources) when the disk is too small. dtype: kFloat, kBFloat16 or kDouble.
  MappedRows(std::string name, RowRange range, ColumnRange columns, at::ScalarType dtype, std::filesystem::path folder);

  const at::Tensor& values() const override { return values_.tensor(); }
  at::Tensor row_storage(const std::string& what, int64_t width, at::ScalarType dtype, PageSize page) override;
  void clear_storage(const at::Tensor& storage) override;
  void prefetch(std::span<const int64_t> row) override;

 private:
  std::filesystem::path folder_;
  OwnFileTensor values_;
  std::list<OwnFileTensor> storage_;
};

class MappedTable : public HeldTable {
 public:
  MappedTable(std::string name, int64_t rows, int64_t width, at::ScalarType dtype, std::filesystem::path folder);
};

// For serving: the rows of a checkpoint's file, and their scale where they are int8. write_rows() (what a later
// checkpoint changed) writes to pages of this process; the file stays as it is. Always frozen, without an optimiser.
class ServedRows : public RowStore {
 public:
  // Name, rows, width and dtype are the file's. Throws Error (input) when it does not hold such a table.
  ServedRows(const std::filesystem::path& file, const std::string& name);

  const at::Tensor& values() const override { return values_.tensor(); }
  std::optional<at::Tensor> scale() const override;
  std::filesystem::path served_file() const override { return file_; }
  at::Tensor row_storage(const std::string& what, int64_t width, at::ScalarType dtype, PageSize page) override;
  void clear_storage(const at::Tensor& storage) override;
  void prefetch(std::span<const int64_t> row) override;

 protected:
  void before_write(const at::Tensor& row) override;
  bool trainable() const override { return false; }

 private:
  ServedRows(const std::filesystem::path& file, const std::string& name, PrivateFileTensor values);

  std::filesystem::path file_;
  PrivateFileTensor values_;
  std::optional<PrivateFileTensor> scale_;
};

class ServedTable : public HeldTable {
 public:
  ServedTable(const std::filesystem::path& file, const std::string& name);
};

// The same for one who knows what the file must hold. Throws Error (input) where it holds another table.
std::shared_ptr<ServedTable> serve_table(const std::filesystem::path& file, const std::string& name, int64_t rows,
                                         int64_t width, at::ScalarType dtype);

}  // namespace loci
