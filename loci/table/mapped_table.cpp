#include "loci/table/mapped_table.h"

#include <ATen/core/grad_mode.h>

#include <utility>

#include "loci/base/check.h"

namespace loci {
namespace {

std::filesystem::path mapped_file_of(const std::filesystem::path& folder, const std::string& name) {
  return folder / fmt::format("table.{}.safetensors", name);
}

at::ScalarType trainable_type(const std::string& name, at::ScalarType dtype) {
  if (dtype == at::kFloat || dtype == at::kBFloat16 || dtype == at::kDouble) return dtype;
  fail(ExitCode::usage, "table " + name, "dtype of mapped rows must be float32, bfloat16 or float64",
       c10::toString(dtype));
}

// The rows of a table. Throws Error (input) for a tensor of another shape or type.
PrivateFileTensor served_values(const std::filesystem::path& file, const std::string& name) {
  PrivateFileTensor values(file, name);
  const at::Tensor& tensor = values.tensor();
  const auto type = tensor.scalar_type();
  if (tensor.dim() != 2 || tensor.size(0) < 1 || tensor.size(1) < 1) {
    fail(ExitCode::input, file.string(), fmt::format("{} must be rows [N, D]", name), c10::str(tensor.sizes()));
  }
  if (type != at::kFloat && type != at::kBFloat16 && type != at::kDouble && type != at::kChar) {
    fail(ExitCode::input, file.string(), "rows must be float32, bfloat16, float64 or int8", c10::toString(type));
  }
  return values;
}

[[noreturn]] void refuse_all(const std::string& name) {
  fail(ExitCode::usage, "table " + name,
       "a served table must keep the rows of its file (load into a LocalTable or MappedTable)", "a write of all rows");
}

}  // namespace

MappedRows::MappedRows(std::string name, RowRange range, ColumnRange columns, at::ScalarType dtype,
                       std::filesystem::path folder)
    : RowStore(std::move(name), range, columns),
      folder_(std::move(folder)),
      values_(mapped_file_of(folder_, this->name()), this->name(), {range.count, columns.count},
              trainable_type(this->name(), dtype)) {
  set_frozen(false);
}

at::Tensor MappedRows::row_storage(const std::string& what, int64_t width, at::ScalarType dtype, PageSize /*page*/) {
  const std::vector<int64_t> shape =
      width == 0 ? std::vector<int64_t>{rows_here()} : std::vector<int64_t>{rows_here(), width};
  return storage_.emplace_back(mapped_file_of(folder_, name() + "." + what), what, shape, dtype).tensor();
}

void MappedRows::clear_storage(const at::Tensor& storage) {
  if (storage.is_same(values())) return values_.clear();
  for (OwnFileTensor& own : storage_) {
    if (own.tensor().is_same(storage)) return own.clear();
  }
  fail(ExitCode::bug, "table " + name(), "storage must be the table's", "another");
}

void MappedRows::prefetch(std::span<const int64_t> row) {
  const bool trained = !frozen() && at::GradMode::is_enabled();  // a step will follow
  count_fetched(values_.fetch(row, trained ? PageUse::write : PageUse::read));
  if (!trained) return;
  for (const OwnFileTensor& own : storage_) count_fetched(own.fetch(row, PageUse::write));
}

MappedTable::MappedTable(std::string name, int64_t rows, int64_t width, at::ScalarType dtype,
                         std::filesystem::path folder)
    : HeldTable(std::make_shared<MappedRows>(std::move(name), RowRange{0, rows}, width, dtype, std::move(folder))) {}

ServedRows::ServedRows(const std::filesystem::path& file, const std::string& name)
    : ServedRows(file, name, served_values(file, name)) {}

ServedRows::ServedRows(const std::filesystem::path& file, const std::string& name, PrivateFileTensor values)
    : RowStore(name, {0, values.tensor().size(0)}, values.tensor().size(1)), file_(file), values_(std::move(values)) {
  if (this->values().scalar_type() == at::kChar) {
    scale_.emplace(file, name + ".scale");
    const at::Tensor& scale = scale_->tensor();
    if (scale.scalar_type() != at::kFloat || scale.dim() != 1 || scale.size(0) != rows_here()) {
      fail(ExitCode::input, file.string(), fmt::format("{}.scale must be F32 [{}]", name, rows_here()),
           fmt::format("{} {}", c10::toString(scale.scalar_type()), c10::str(scale.sizes())));
    }
  }
  set_frozen(true);
}

std::optional<at::Tensor> ServedRows::scale() const {
  return scale_ ? std::optional(scale_->tensor()) : std::nullopt;
}

void ServedRows::before_write(const at::Tensor& row) {
  if (!row.defined()) refuse_all(name());
  values_.allow_writes(row.const_data_ptr<int64_t>(), row.numel());
  if (scale_) scale_->allow_writes(row.const_data_ptr<int64_t>(), row.numel());
}

at::Tensor ServedRows::row_storage(const std::string& what, int64_t /*width*/, at::ScalarType /*dtype*/,
                                   PageSize /*page*/) {
  fail(ExitCode::usage, "table " + name(), "a served table must not be trained", what);
}

void ServedRows::clear_storage(const at::Tensor& /*storage*/) {
  refuse_all(name());
}

void ServedRows::prefetch(std::span<const int64_t> row) {
  count_fetched(values_.fetch(row));
  if (scale_) count_fetched(scale_->fetch(row));
}

ServedTable::ServedTable(const std::filesystem::path& file, const std::string& name)
    : HeldTable(std::make_shared<ServedRows>(file, name)) {}

std::shared_ptr<ServedTable> serve_table(const std::filesystem::path& file, const std::string& name, int64_t rows,
                                         int64_t width, at::ScalarType dtype) {
  auto table = std::make_shared<ServedTable>(file, name);
  const auto text = [](int64_t r, int64_t w, at::ScalarType type) {
    return fmt::format("{} [{}, {}]", c10::toString(type), r, w);
  };
  const std::string is = text(table->rows(), table->width(), table->dtype());
  const std::string wanted = text(rows, width, dtype);
  if (is != wanted) fail(ExitCode::input, file.string(), fmt::format("{} must be {}", name, wanted), is);
  return table;
}

}  // namespace loci
