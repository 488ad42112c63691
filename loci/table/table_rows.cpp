// How the rows of any table start, are written and are known to have changed.
//
// Legend: N rows, D width, U rows written.
#include <ATen/Parallel.h>
#include <ATen/ops/arange.h>

#include "loci/base/check.h"
#include "loci/base/random.h"
#include "loci/table/quantise.h"
#include "loci/table/table.h"

namespace loci {
namespace {

int64_t version_of(const at::Tensor& values) {
  return values.is_inference() ? 0 : int64_t{values._version()};
}

}  // namespace

int64_t Table::bytes() const {
  return static_cast<int64_t>(values().nbytes() + (scale() ? scale()->nbytes() : 0));
}

void Table::initialise_normal(uint64_t seed, double std) {
  if (scale()) fail(ExitCode::bug, "table " + name(), "rows must not be int8 to be drawn", "int8");
  before_write({});
  const CounterRandom random(seed, name());
  const auto fill = [&](auto* value) {
    using Real = std::remove_pointer_t<decltype(value)>;
    at::parallel_for(0, rows() * width(), 4096, [&](int64_t begin, int64_t end) {
      // Through float32: a table starts with the same numbers in every dtype, as far as it holds them.
      for (int64_t i = begin; i < end; ++i) value[i] = static_cast<Real>(static_cast<float>(std * random.normal(i)));
    });
  };
  switch (values().scalar_type()) {
    case at::kFloat:
      fill(values().mutable_data_ptr<float>());
      break;
    case at::kDouble:
      fill(values().mutable_data_ptr<double>());
      break;
    default:
      fill(values().mutable_data_ptr<at::BFloat16>());
      break;
  }
  values().unsafeGetTensorImpl()->bump_version();
  mark_all_changed();
}

void Table::initialise_zero() {
  before_write({});
  clear_storage(values());
  if (scale()) clear_storage(*scale());
  mark_all_changed();
}

void Table::set_rows(int64_t first, const at::Tensor& rows) {
  TORCH_CHECK(rows.dim() == 2 && rows.size(1) == width(), "table ", name(), ": rows must be [n, ", width(), "], got ",
              rows.sizes());
  TORCH_CHECK_INDEX(first >= 0 && rows.size(0) <= this->rows() - first, "table ", name(), ": rows must end at most at ",
                    this->rows(), ", got ", first, " + ", rows.size(0));
  const auto part = [&](const at::Tensor& all) { return all.detach().narrow(0, first, rows.size(0)); };
  write_rows(at::arange(first, first + rows.size(0), at::kLong), [&] {
    if (!scale()) {
      part(values()).copy_(rows);
      return;
    }
    const QuantisedRows quantised = quantise_rows(rows);
    part(values()).copy_(quantised.values);
    part(*scale()).copy_(quantised.scale);
  });
}

void Table::write_rows(const at::Tensor& row, const std::function<void()>& write) {
  TORCH_CHECK(row.dim() == 1 && row.scalar_type() == at::kLong && row.is_contiguous(), "table ", name(),
              ": row must be int64 [U], got ", row.scalar_type(), " ", row.sizes());
  notice_foreign_writes();
  before_write(row);
  write();
  changed_.mark({row.const_data_ptr<int64_t>(), static_cast<size_t>(row.numel())});
  known_version_ = version_of(values());
}

// In-place operators count a tensor's versions, so that a write past write_rows() is not lost.
void Table::notice_foreign_writes() {
  if (version_of(values()) != known_version_) mark_all_changed();
}

const RowMarks& Table::changed_rows() {
  notice_foreign_writes();
  return changed_;
}

void Table::clear_changed_rows() {
  changed_.clear();
  known_version_ = version_of(values());
}

}  // namespace loci
