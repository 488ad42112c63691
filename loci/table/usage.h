// Which rows of a table are read, how heavily, and when last; and what that says about the memory
// (docs/product-key-memory.md, "Measures").
//
// Legend: T tokens, H heads, K top_k, N rows.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

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

// A row's counters lie together, so that a read touches one cache line.
struct alignas(32) RowUsage {
  int64_t reads = 0;
  int64_t top_reads = 0;  // as the heaviest read of a (token, head)
  double weight = 0;
  int64_t last_touch = -1;  // the step; -1: never
};

// 32 bytes a row. Reads are counted in their order, on one thread.
class Usage {
 public:
  explicit Usage(int64_t rows);

  // The reads of one batch, index and weight [T, H, K]; `step` dates them. The heaviest read of a (token, head) is the
  // first of equals. An index beyond the rows throws and leaves the counters as they were.
  void add(const int64_t* index, const float* weight, int64_t tokens, int64_t heads, int64_t top_k, int64_t step);
  // Adds the counters of another part of the same window (another rank).
  void merge(const Usage& other);

  UsageMetrics metrics() const;
  // Starts a new window: counts begin at 0, the dates of last touch stay.
  void reset_window();
  void clear();
  // Forgets rows that are drawn anew.
  void clear_rows(std::span<const int64_t> rows);
  // Rows that were not touched in the `steps` steps before `now`, ascending.
  std::vector<int64_t> dead_rows(int64_t steps, int64_t now) const;

  int64_t rows() const { return static_cast<int64_t>(rows_.size()); }
  // [N], the state itself, to save and to copy into.
  std::span<RowUsage> state() { return rows_; }
  std::span<const RowUsage> state() const { return rows_; }

 private:
  std::vector<RowUsage> rows_;
};

}  // namespace loci
