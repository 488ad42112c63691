#include "loci/table/row_marks.h"

#include <algorithm>
#include <bit>
#include <numeric>

namespace loci {

void RowMarks::mark(std::span<const int64_t> rows) {
  if (bits_.empty()) bits_.resize(static_cast<size_t>((rows_ + 63) / 64));
  for (const int64_t row : rows) bits_[static_cast<size_t>(row) / 64] |= uint64_t{1} << (row % 64);
}

void RowMarks::clear() {
  all_ = false;
  std::fill(bits_.begin(), bits_.end(), 0);
}

std::vector<int64_t> RowMarks::rows() const {
  std::vector<int64_t> result;
  if (all_) {
    result.resize(static_cast<size_t>(rows_));
    std::iota(result.begin(), result.end(), 0);
    return result;
  }
  for (size_t word = 0; word < bits_.size(); ++word) {
    for (uint64_t bits = bits_[word]; bits != 0; bits &= bits - 1) {
      result.push_back(static_cast<int64_t>(word) * 64 + std::countr_zero(bits));
    }
  }
  return result;
}

}  // namespace loci
