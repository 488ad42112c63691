// Which rows the simulator of an exchange reads: by popularity (Zipf), or as a trained run has read them.
//
// Legend: T tokens, H heads, K reads of a token, N rows.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "loci/base/random.h"
#include "loci/base/random_sequence.h"

namespace loci::bench {

class RowSource {
 public:
  virtual ~RowSource() = default;
  virtual int64_t rows() const = 0;  // N
  virtual int64_t draw(RandomSequence& random) const = 0;
};

// The r-th most popular row is read in proportion to r^-skew, r from 1. Popular rows lie anywhere: ranks of popularity
// are permuted into rows. skew 0: all rows alike.
class ZipfRows : public RowSource {
 public:
  ZipfRows(int64_t rows, double skew);
  int64_t rows() const override { return rows_; }
  int64_t draw(RandomSequence& random) const override;

 private:
  double area(double x) const;          // of r^-skew from 1 to x
  double inverse_area(double a) const;  // the x of that area

  int64_t rows_;
  double skew_;
  CounterPermutation permutation_;
  double begin_, end_;            // areas that draws fall between
  std::vector<int64_t> popular_;  // the first ranks, permuted
};

// Each row in proportion to its reads, at its place in the table.
class CountedRows : public RowSource {
 public:
  explicit CountedRows(const std::vector<int64_t>& reads);  // [N]
  int64_t rows() const override { return static_cast<int64_t>(below_.size()); }
  int64_t draw(RandomSequence& random) const override;

 private:
  std::vector<int64_t> below_;  // [N]: reads of the rows up to this one
};

// The counted reads of each row of a table in a checkpoint folder step-N, [N]. `table`: empty where the checkpoint
// counts the reads of one. Throws Error (usage) for a table without counters, Error (input) for a broken checkpoint.
std::vector<int64_t> counted_reads(const std::filesystem::path& folder, const std::string& table);

// Fills index [H, K / H] for one token: rows by the source, distinct within a head. Needs N >= K / H.
void draw_token(const RowSource& source, int64_t heads, RandomSequence& random, std::span<int64_t> index);

}  // namespace loci::bench
