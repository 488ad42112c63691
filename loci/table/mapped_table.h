// A table whose rows are in a safetensors file, so that it may be larger than memory. Bit-identical to LocalTable.
//
// The kernel keeps in memory what is read and written often, and brings back the rest from the disk. A file that loses
// bytes under a running process ends it with SIGBUS; loci's command line turns that into a message.
#pragma once

#include <filesystem>
#include <list>

#include "loci/table/mapped_tensor.h"
#include "loci/table/table.h"

namespace loci {

// For training: rows and what optimisers keep for them in files of their own.
class MappedTable : public Table {
 public:
  // Makes FOLDER/table.NAME.safetensors, zero; row_storage() adds FOLDER/table.NAME.WHAT.safetensors. They stay when
  // the table goes. Throws Error (resources) when the disk cannot hold them. dtype: kFloat, kBFloat16 (kDouble for
  // tests).
  MappedTable(std::string name, int64_t rows, int64_t width, at::ScalarType dtype, std::filesystem::path folder);

  const at::Tensor& values() const override { return values_.tensor(); }
  at::Tensor row_storage(const std::string& what, int64_t width, at::ScalarType dtype, PageSize page) override;
  void clear_storage(const at::Tensor& storage) override;

 private:
  std::filesystem::path folder_;
  OwnFileTensor values_;
  std::list<OwnFileTensor> storage_;
};

// For serving: the rows of a checkpoint's file, and their scale where they are int8. write_rows() (a later checkpoint's
// changes) writes into pages of this process; the file stays as it is. Frozen: no gradient, no optimiser.
class ServedTable : public Table {
 public:
  // Name, rows, width and dtype are the file's. Throws Error (input) when it holds no such table.
  ServedTable(const std::filesystem::path& file, const std::string& name);

  const at::Tensor& values() const override { return values_.tensor(); }
  std::optional<at::Tensor> scale() const override;
  const std::filesystem::path& file() const { return file_; }
  at::Tensor row_storage(const std::string& what, int64_t width, at::ScalarType dtype, PageSize page) override;
  void clear_storage(const at::Tensor& storage) override;

 protected:
  void before_write(const at::Tensor& row) override;

 private:
  ServedTable(const std::filesystem::path& file, const std::string& name, PrivateFileTensor values);

  std::filesystem::path file_;
  PrivateFileTensor values_;
  std::optional<PrivateFileTensor> scale_;
};

}  // namespace loci
