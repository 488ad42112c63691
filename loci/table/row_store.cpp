// How the rows of a table start, are written, and are known to have changed.
//
// Legend: R rows here, D width, U rows written.
#include "loci/table/row_store.h"

#include <ATen/Parallel.h>
#include <ATen/ops/arange.h>

#include <algorithm>
#include <cstdio>
#include <span>
#include <system_error>
#include <type_traits>
#include <utility>

#include "loci/base/check.h"
#include "loci/base/random.h"
#include "loci/table/quantise.h"

namespace loci {
namespace {

// So that a graph that saved the rows refuses to run backward after they were written.
void count_version(const at::Tensor& written) {
  if (!written.is_inference()) written.unsafeGetTensorImpl()->bump_version();
}

}  // namespace

RowStore::RowStore(std::string name, RowRange range, ColumnRange columns)
    : name_(std::move(name)),
      range_(range),
      columns_(columns),
      references_(name_, columns.count),
      changed_(std::max<int64_t>(range.count, 0)) {
  const std::string who = "table " + name_;
  if (range.first < 0 || range.count < 0) {
    fail(ExitCode::usage, who, "rows must be at least 0", std::to_string(std::min(range.first, range.count)));
  }
  if (columns.count < 1) fail(ExitCode::usage, who, "width must be at least 1", std::to_string(columns.count));
  if (columns.first < 0 || columns.first > columns.all - columns.count) {
    fail(ExitCode::usage, who, fmt::format("columns must be within 0 .. {}", columns.all - 1),
         fmt::format("{} from {} on", columns.count, columns.first));
  }
  checked_product(who, "rows x width", checked_sum(who, "rows", range.first, range.count), columns.all);
}

int64_t RowStore::bytes() const {
  return static_cast<int64_t>(values().nbytes() + (scale() ? scale()->nbytes() : 0));
}

void RowStore::initialise_normal(uint64_t seed, double std) {
  if (scale()) fail(ExitCode::bug, "table " + name_, "rows must not be int8 to be drawn", "int8");
  const CounterRandom random(seed, name_);
  const int64_t width = columns_.count;
  const auto fill = [&](auto* value) {
    using Real = std::remove_pointer_t<decltype(value)>;
    at::parallel_for(0, range_.count * width, 4096, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t of_table = (range_.first + i / width) * columns_.all + columns_.first + i % width;
        // Through float32, so that every dtype starts with the same numbers.
        value[i] = static_cast<Real>(static_cast<float>(std * random.normal(static_cast<uint64_t>(of_table))));
      }
    });
  };
  write_all([&] {
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
  });
}

void RowStore::initialise_zero() {
  write_all([&] {
    clear_storage(values());
    if (scale()) clear_storage(*scale());
  });
}

void RowStore::set_rows(int64_t first, const at::Tensor& rows) {
  TORCH_CHECK(rows.dim() == 2 && rows.size(1) == width(), "table ", name_, ": rows must be [n, ", width(), "], got ",
              rows.sizes());
  TORCH_CHECK_INDEX(first >= 0 && rows.size(0) <= range_.count - first, "table ", name_, ": rows must end at most at ",
                    range_.count, ", got ", first, " + ", rows.size(0));
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

void RowStore::write_rows(const at::Tensor& row, const std::function<void()>& write) {
  TORCH_CHECK(row.dim() == 1 && row.scalar_type() == at::kLong && row.is_contiguous() && row.is_cpu(), "table ", name_,
              ": row must be int64 [U] on cpu, got ", row.scalar_type(), " ", row.sizes(), " on ", row.device());
  const std::span<const int64_t> numbers(row.const_data_ptr<int64_t>(), static_cast<size_t>(row.numel()));
  for (const int64_t number : numbers) {
    TORCH_CHECK_INDEX(number >= 0 && number < range_.count, "table ", name_, ": rows must be within 0 .. ",
                      range_.count - 1, ", got ", number);
  }
  notice_foreign_writes();
  before_write(row);
  changed_.mark(numbers);  // first: a write that fails may have changed some
  write();
  count_version(values());
  known_version_ = version_of(values());
}

void RowStore::write_all(const std::function<void()>& write) {
  before_write({});
  changed_.mark_all();  // first: a write that fails may have changed some
  write();
  count_version(values());
}

// In-place operators count a tensor's versions, so that a write past write_rows() is not lost.
void RowStore::notice_foreign_writes() {
  if (version_of(values()) != known_version_) changed_.mark_all();
}

const RowMarks& RowStore::changed_rows() {
  notice_foreign_writes();
  return changed_;
}

void RowStore::clear_changed_rows() {
  changed_.clear();
  known_version_ = version_of(values());
}

FetchCounts RowStore::fetched() const {
  const std::lock_guard lock(fetched_mutex_);
  return fetched_;
}

void RowStore::count_fetched(const FetchCounts& counts) {
  const std::lock_guard lock(fetched_mutex_);
  if (fetched_.failed_advices == 0 && counts.failed_advices > 0) {
    fmt::print(stderr, "table {}: {} of {} advices to read ahead failed ({}): these pages are read one by one\n", name_,
               counts.failed_advices, counts.advices, std::generic_category().message(counts.advice_error));
  }
  fetched_ += counts;
}

void RowStore::set_frozen(bool frozen) {
  if (!frozen && !trainable()) {
    fail(ExitCode::usage, "table " + name_, "served or int8 rows must stay frozen", "set_frozen(false)");
  }
  references_.clear();
  frozen_ = frozen;
  values().set_requires_grad(!frozen);
}

}  // namespace loci
