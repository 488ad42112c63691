// Which rows of a table have changed since its last checkpoint: a bit a row.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace loci {

class RowMarks {
 public:
  explicit RowMarks(int64_t rows) : rows_(rows) {}

  void mark(std::span<const int64_t> rows);  // each within 0 .. rows - 1
  void mark_all() { all_ = true; }
  void clear();

  bool all() const { return all_; }   // the whole table was written
  std::vector<int64_t> rows() const;  // ascending; every row when all() is true

 private:
  int64_t rows_;
  bool all_ = false;
  std::vector<uint64_t> bits_;  // none until a row is marked
};

}  // namespace loci
