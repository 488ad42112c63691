// Legend: N rows, D width.
#include "loci/table/local_table.h"

#include <ATen/Parallel.h>

#include <utility>

#include "loci/base/check.h"
#include "loci/base/random.h"
#include "loci/table/page_memory.h"
#include "loci/table/quantise.h"

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

int64_t LocalTable::bytes() const {
  return static_cast<int64_t>(values_.nbytes() + (scale_ ? scale_->nbytes() : 0));
}

void LocalTable::initialise_normal(uint64_t seed, double std) {
  if (scale_) fail(ExitCode::bug, "table " + name(), "rows must not be int8 to be drawn", "int8");
  const CounterRandom random(seed, name());
  const auto fill = [&](auto* value) {
    using Real = std::remove_pointer_t<decltype(value)>;
    at::parallel_for(0, rows() * width(), 4096, [&](int64_t begin, int64_t end) {
      // Through float32: a table starts with the same numbers in every dtype, as far as it holds them.
      for (int64_t i = begin; i < end; ++i) value[i] = static_cast<Real>(static_cast<float>(std * random.normal(i)));
    });
  };
  switch (values_.scalar_type()) {
    case at::kFloat: fill(values_.mutable_data_ptr<float>()); break;
    case at::kDouble: fill(values_.mutable_data_ptr<double>()); break;
    default: fill(values_.mutable_data_ptr<at::BFloat16>()); break;
  }
  values_.unsafeGetTensorImpl()->bump_version();
}

void LocalTable::initialise_zero() {
  return_pages(values_);
  if (scale_) return_pages(*scale_);
}

void LocalTable::set_rows(int64_t first, const at::Tensor& rows) {
  TORCH_CHECK(rows.dim() == 2 && rows.size(1) == width(), "table ", name(), ": rows must be [n, ", width(), "], got ",
              rows.sizes());
  TORCH_CHECK_INDEX(first >= 0 && rows.size(0) <= this->rows() - first, "table ", name(), ": rows must end at most at ",
                    this->rows(), ", got ", first, " + ", rows.size(0));
  const auto part = [&](const at::Tensor& all) { return all.detach().narrow(0, first, rows.size(0)); };
  if (!scale_) {
    part(values_).copy_(rows);
    return;
  }
  const QuantisedRows quantised = quantise_rows(rows);
  part(values_).copy_(quantised.values);
  part(*scale_).copy_(quantised.scale);
}

}  // namespace loci
