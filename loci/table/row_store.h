// The rows of a table that are in this process: what optimisers, checkpoints, calibration, conversion and
// initialisation work on. Blocks use Table (table.h).
//
// Legend: R rows here, D columns here, U rows written.
//
// Row numbers of this class count from the first row here: number r is row first_row() + r of the table. A store is
// made by std::make_shared, for optimisers and graphs of autograd keep it alive.
#pragma once

#include <ATen/core/Tensor.h>

#include <filesystem>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "loci/table/page_fetch.h"
#include "loci/table/page_memory.h"
#include "loci/table/row_gradient.h"
#include "loci/table/row_marks.h"

namespace loci {

// Consecutive rows of a table.
struct RowRange {
  int64_t first = 0;
  int64_t count = 0;
};

// Consecutive columns of a table that has `all`; a number alone: all of so many.
struct ColumnRange {
  ColumnRange(int64_t width) : count(width), all(width) {}
  ColumnRange(int64_t first, int64_t count, int64_t all) : first(first), count(count), all(all) {}
  bool whole() const { return count == all; }

  int64_t first = 0;
  int64_t count = 0;
  int64_t all = 0;
};

// Sums numbers over the ranks that hold the columns of a table, in place, with the same bits on all of them; they call
// it together.
using ColumnSum = std::function<void(const std::vector<at::Tensor>& numbers)>;

class RowStore : public std::enable_shared_from_this<RowStore> {
 public:
  virtual ~RowStore() = default;
  RowStore(const RowStore&) = delete;
  RowStore& operator=(const RowStore&) = delete;

  const std::string& name() const { return name_; }  // the table's
  int64_t first_row() const { return range_.first; }
  int64_t rows_here() const { return range_.count; }  // R
  int64_t width() const { return columns_.count; }    // D
  const ColumnRange& columns() const { return columns_; }
  // Empty where rows are whole. The table of several ranks sets it.
  const ColumnSum& column_sum() const { return column_sum_; }
  void set_column_sum(ColumnSum sum) { column_sum_ = std::move(sum); }
  int64_t bytes() const;  // of rows and scale

  // [R, D], the storage itself. Load by copying into it: a replaced storage would lose huge pages and mappings.
  virtual const at::Tensor& values() const = 0;
  // [R] float32, one a row, of int8 rows alone.
  virtual std::optional<at::Tensor> scale() const { return std::nullopt; }
  // The file of a checkpoint that these rows are mapped from. Empty: they were not.
  virtual std::filesystem::path served_file() const { return {}; }

  // Allocates [R, width] ([R] for width 0), zero, for what belongs to the rows, such as an optimiser's moments. It is
  // in the same kind of memory as the rows; `what` names it.
  virtual at::Tensor row_storage(const std::string& what, int64_t width, at::ScalarType dtype, PageSize page) = 0;
  // Makes values(), scale() or a row_storage() zero again, without writing where the system can do so.
  virtual void clear_storage(const at::Tensor& storage) = 0;

  // Table::prefetch. These rows must be here.
  virtual void prefetch(std::span<const int64_t> row) { (void)row; }
  FetchCounts fetched() const;  // of all prefetches so far

  // N(0, std^2) by (seed, table name, row and column of the table), so that a part of a table equals its part of the
  // whole table, in every dtype as far as it holds the numbers.
  void initialise_normal(uint64_t seed, double std);
  // Zeros, without writing: a row that nothing has touched takes neither memory nor disk.
  void initialise_zero();
  // Rows first .. first + n - 1 become `rows` [n, D], rounded to the table's dtype (int8: quantise.h).
  void set_rows(int64_t first, const at::Tensor& rows);

  // Calls `write`, which changes these rows [U] int64 or what belongs to them, and marks them as changed.
  void write_rows(const at::Tensor& row, const std::function<void()>& write);
  // The same for all rows.
  void write_all(const std::function<void()>& write);
  // The rows that differ from the last checkpoint: those marked, or all where values() was written in another way.
  const RowMarks& changed_rows();
  void clear_changed_rows();  // a checkpoint holds them now

  // What backward left and no optimiser has used yet.
  PendingReferences& references() { return references_; }
  const PendingReferences& references() const { return references_; }
  void set_frozen(bool frozen);  // Table::set_frozen
  bool frozen() const { return frozen_; }

 protected:
  RowStore(std::string name, RowRange range, ColumnRange columns);
  // Called before rows [U] are written; an undefined tensor: all of them.
  virtual void before_write(const at::Tensor& row) { (void)row; }
  virtual bool trainable() const { return !scale(); }
  void count_fetched(const FetchCounts& counts);  // tells of the first advice that failed

 private:
  void notice_foreign_writes();

  std::string name_;
  RowRange range_;
  ColumnRange columns_;
  ColumnSum column_sum_;
  bool frozen_ = false;
  PendingReferences references_;
  RowMarks changed_;
  mutable std::mutex fetched_mutex_;
  FetchCounts fetched_;
  int64_t known_version_ = 0;  // of values(), when the marks were right
};

}  // namespace loci
