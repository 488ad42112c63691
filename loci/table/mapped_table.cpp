#include "loci/table/mapped_table.h"

#include <utility>

#include "loci/base/check.h"

namespace loci {
namespace {

std::filesystem::path file_of(const std::filesystem::path& folder, const std::string& name) {
  return folder / fmt::format("table.{}.safetensors", name);
}

at::ScalarType trainable(const std::string& name, at::ScalarType dtype) {
  if (dtype == at::kFloat || dtype == at::kBFloat16 || dtype == at::kDouble) return dtype;
  fail(ExitCode::usage, "table " + name, "dtype of mapped rows must be float32, bfloat16 or float64",
       c10::toString(dtype));
}

// A tensor of a table's sizes, or an Error.
PrivateFileTensor rows_of(const std::filesystem::path& file, const std::string& name) {
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

}  // namespace

MappedTable::MappedTable(std::string name, int64_t rows, int64_t width, at::ScalarType dtype,
                         std::filesystem::path folder)
    : Table(std::move(name), rows, width),
      folder_(std::move(folder)),
      values_(file_of(folder_, this->name()), this->name(), {rows, width}, trainable(this->name(), dtype)) {
  values().set_requires_grad(true);
}

at::Tensor MappedTable::row_storage(const std::string& what, int64_t width, at::ScalarType dtype, PageSize /*page*/) {
  const std::vector<int64_t> shape = width == 0 ? std::vector<int64_t>{rows()} : std::vector<int64_t>{rows(), width};
  return storage_.emplace_back(file_of(folder_, name() + "." + what), what, shape, dtype).tensor();
}

void MappedTable::clear_storage(const at::Tensor& storage) {
  if (storage.is_same(values())) return values_.clear();
  for (OwnFileTensor& own : storage_) {
    if (own.tensor().is_same(storage)) return own.clear();
  }
  fail(ExitCode::bug, "table " + name(), "storage must be the table's", "another");
}

ServedTable::ServedTable(const std::filesystem::path& file, const std::string& name)
    : ServedTable(file, name, rows_of(file, name)) {}

ServedTable::ServedTable(const std::filesystem::path& file, const std::string& name, PrivateFileTensor values)
    : Table(name, values.tensor().size(0), values.tensor().size(1)), file_(file), values_(std::move(values)) {
  if (this->values().scalar_type() == at::kChar) {
    scale_.emplace(file, name + ".scale");
    const at::Tensor& scale = scale_->tensor();
    if (scale.scalar_type() != at::kFloat || scale.dim() != 1 || scale.size(0) != rows()) {
      fail(ExitCode::input, file.string(), fmt::format("{}.scale must be F32 [{}]", name, rows()),
           fmt::format("{} {}", c10::toString(scale.scalar_type()), c10::str(scale.sizes())));
    }
  }
  set_gradient_mode(GradientMode::none);
}

std::optional<at::Tensor> ServedTable::scale() const {
  return scale_ ? std::optional(scale_->tensor()) : std::nullopt;
}

void ServedTable::before_write(const at::Tensor& row) {
  if (!row.defined()) fail(ExitCode::bug, "table " + name(), "a served table must keep its rows", "another start");
  values_.allow_writes(row.const_data_ptr<int64_t>(), row.numel());
  if (scale_) scale_->allow_writes(row.const_data_ptr<int64_t>(), row.numel());
}

at::Tensor ServedTable::row_storage(const std::string& what, int64_t /*width*/, at::ScalarType /*dtype*/,
                                    PageSize /*page*/) {
  fail(ExitCode::usage, "table " + name(), "a served table must not be trained", what);
}

void ServedTable::clear_storage(const at::Tensor& /*storage*/) {
  fail(ExitCode::bug, "table " + name(), "a served table must keep its rows", "another start");
}

}  // namespace loci
