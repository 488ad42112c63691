// Legend: N rows, D width.
#include "loci/table/local_table.h"

#include <ATen/Parallel.h>

#include <utility>

#include "loci/base/check.h"
#include "loci/base/random.h"
#include "loci/table/page_memory.h"

namespace loci {

LocalTable::LocalTable(std::string name, int64_t rows, int64_t width, LocalTableOptions options)
    : Table(std::move(name), rows, width) {
  if (options.dtype != at::kFloat && options.dtype != at::kBFloat16 && options.dtype != at::kDouble) {
    fail(ExitCode::usage, "table " + this->name(), "dtype must be float32, bfloat16 or float64",
         c10::toString(options.dtype));
  }
  values_ = zero_pages("table " + this->name(), rows, width, options.dtype, PageSize::huge);
  values_.set_requires_grad(true);
}

int64_t LocalTable::bytes() const { return static_cast<int64_t>(values_.nbytes()); }

void LocalTable::initialise_normal(uint64_t seed, double std) {
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
}

}  // namespace loci
