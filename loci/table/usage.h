// Which rows of a table are read, how heavily, and when last; and what that says about the memory
// (docs/product-key-memory.md, "Measures").
//
// Legend: T tokens, H heads, K top_k, N rows.
#pragma once

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "loci/ops/usage_add/usage_add.h"
#include "loci/table/read_observer.h"

namespace loci {

// n_i: reads of row i; q_i: their summed weight; z_i = q_i / sum q. What nothing defines (no reads, no weight) is NaN.
struct UsageMetrics {
  int64_t rows = 0;
  int64_t reads = 0;
  int64_t distinct_rows = 0;
  double usage = 0;       // share of rows that were read
  double usage_at_1 = 0;  // share of rows that were the heaviest read of some (token, head)
  double kl = 0;          // of z to uniform, ln N + sum z ln z: 0 even, ln N one row
  double kl_reads = 0;    // the same of n
  double gini = 0;        // of z: 0 even, 1 - 1/N one row
  int64_t rows_50 = 0;    // the least number of largest rows with 50 % of the weight
  int64_t rows_90 = 0;
  int64_t rows_99 = 0;
  double collision = 0;          // share of the reads that fall on rows with more than one
  int64_t staleness_median = 0;  // steps from a row's last touch to the newest touch, of the rows ever touched
  int64_t staleness_p90 = 0;
  double never_touched = 0;  // share of rows
};

// Counts the reads of a window of steps. Holds 12 bytes a row, from the first read on, on pages that cost nothing until
// one of their rows is read.
class Usage : public ReadObserver {
 public:
  explicit Usage(int64_t rows);
  Usage(Usage&&) = default;  // a copy would share its counters
  // The same counters, for those who only read them while nothing is counted.
  Usage view() const { return *this; }

  // Dates the reads to come. Steps do not fall.
  void set_step(int64_t step);
  // From now on the reads of `step` and later steps alone count; the dates of last touch stay.
  void begin_window(int64_t step);
  int64_t window() const { return window_; }

  // usage_add of index and weight, whatever their layout and device; a weight of another type is rounded to float32.
  void reads(const MemoryReads& reads) override;

  UsageMetrics metrics() const;
  // metrics().usage and .kl alone, in one pass over the rows: for a line of the log.
  std::pair<double, double> usage_and_kl() const;
  // Forgets everything but step and window, and frees the memory.
  void clear() { state_.reset(); }

  int64_t rows() const { return rows_; }
  // [N, 3] int32: the RowUsage of each row, to save and to copy into.
  const at::Tensor& state();
  // The same to read alone; empty before the first read.
  std::span<const RowUsage> all() const;
  // What `row` counts in the window; its date is of any step.
  RowUsage row(int64_t row) const;
  // How many rows were read at `step` or later, whatever the window.
  int64_t count_since(int64_t step) const;
  // Rows read at `step` or later, ascending.
  std::vector<int64_t> touched_since(int64_t step) const;

 private:
  Usage(const Usage&) = default;
  RowUsage in_window(const RowUsage& row) const;

  int64_t rows_;
  int64_t step_ = 0;
  int64_t window_ = 0;
  at::Tensor state_;
};

}  // namespace loci
