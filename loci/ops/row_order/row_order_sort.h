// The references of table rows, sorted by row, without torch.
//
// Legend: M references, U distinct rows.
//
// Estimate: with at most four times as many rows as references, the references are copied to ranges of rows and counted
// there, in the first-level cache: 68 bytes a reference in five passes. Otherwise they are sorted by digits of 11 bits,
// 24 bytes a reference and pass. Two threads of a Xeon (`loci bench row_order`): 131,072 references of 16,384 rows
// 0.75 ms, 524,288 of 2^18 rows 2.6 ms; by digits the latter takes twice as long. A stable order is unique, so the
// result depends neither on the number of parts nor on the method.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>

namespace loci {

// The references of one list: reference p is (row[p], coefficient[p], first_source + p / reads).
template <class Real>
struct ReferenceList {
  const int64_t* row;
  const Real* coefficient;
  int64_t size;
  int64_t first_source;
  int64_t reads;
};

// Grouped by row, each row's references in their order, without those whose coefficient is exactly 0.
template <class Real>
struct SortedReferences {
  int64_t size = 0;                     // M
  int64_t rows = 0;                     // U
  std::unique_ptr<int64_t[]> row;       // [U] ascending, distinct
  std::unique_ptr<int64_t[]> begin;     // [U + 1]
  std::unique_ptr<int32_t[]> source;    // [M]
  std::unique_ptr<Real[]> coefficient;  // [M]
  // The first row below 0, dropped references included, or 0. If there is one, nothing is sorted.
  int64_t bad_row = 0;
};

// Runs work(0) .. work(parts - 1), in any order and on any threads.
using RunParts = std::function<void(int64_t parts, const std::function<void(int64_t part)>& work)>;

// Sources below 2^31.
template <class Real>
SortedReferences<Real> sort_references(std::span<const ReferenceList<Real>> lists, int64_t parts, const RunParts& run);

extern template SortedReferences<float> sort_references(std::span<const ReferenceList<float>>, int64_t,
                                                        const RunParts&);
extern template SortedReferences<double> sort_references(std::span<const ReferenceList<double>>, int64_t,
                                                         const RunParts&);

}  // namespace loci
