#include "loci/ops/row_order/row_order_sort.h"

#include <algorithm>
#include <bit>
#include <utility>
#include <vector>

namespace loci {
namespace {

// Rows are counted, not sorted, up to this many, and up to this many times the references.
constexpr int64_t kCountedRows = 1 << 16, kCountedShare = 4;
constexpr int kLeastBinBits = 8, kMostBinsBits = 10;  // a bin has at least 2^8 rows; there are at most 2^10 bins
constexpr int64_t kRangeReferences = 4096;            // on average
constexpr int kDigitBits = 11;                        // of one pass: its counters stay in the first-level cache

// Position and row of a reference: in one word where both are below 2^32, else in two.
struct Packed {
  uint64_t word;
  static Packed of(int64_t row, int64_t position) {
    return {static_cast<uint64_t>(row) << 32 | static_cast<uint64_t>(position)};
  }
  int64_t row() const { return static_cast<int64_t>(word >> 32); }
  int64_t position() const { return static_cast<int64_t>(word & 0xffffffff); }
};

struct Wide {
  int64_t row_, position_;
  static Wide of(int64_t row, int64_t position) { return {row, position}; }
  int64_t row() const { return row_; }
  int64_t position() const { return position_; }
};

// x / divisor by a multiplication where x and divisor are below 2^32, else by a division.
class Quotient {
 public:
  explicit Quotient(int64_t divisor)
      : divisor_(static_cast<uint64_t>(divisor)), inverse_(divisor > 1 ? ~uint64_t{0} / divisor_ + 1 : 0) {}
  int64_t operator()(int64_t x) const {
    const auto value = static_cast<uint64_t>(x);
    if (inverse_ == 0) return x;
    if ((value | divisor_) >> 32 != 0) return static_cast<int64_t>(value / divisor_);
    __extension__ typedef unsigned __int128 Product;
    return static_cast<int64_t>(static_cast<Product>(inverse_) * value >> 64);
  }

 private:
  uint64_t divisor_, inverse_;
};

template <class Real>
class ReferenceSorter {
 public:
  ReferenceSorter(std::span<const ReferenceList<Real>> lists, int64_t parts, const RunParts& run)
      : lists_(lists), parts_(parts), run_(run) {
    for (const auto& list : lists) {
      start_.push_back(size_);
      quotient_.emplace_back(std::max<int64_t>(list.reads, 1));
      size_ += list.size;
    }
  }

  SortedReferences<Real> sort() {
    SortedReferences<Real> out;
    std::vector<int64_t> kept(parts_ + 1, 0);
    out.bad_row = check(kept);
    if (out.bad_row < 0) return out;
    for (int64_t part = 0; part < parts_; ++part) kept[part + 1] += kept[part];
    out.size = kept[parts_];
    out.source = std::make_unique_for_overwrite<int32_t[]>(out.size);
    out.coefficient = std::make_unique_for_overwrite<Real[]>(out.size);
    if (largest_row_ < std::max(kCountedRows, kCountedShare * out.size) && (largest_row_ | size_) >> 31 == 0) {
      sort_by_counting(out);
    } else if (largest_row_ >> 32 == 0 && size_ >> 32 == 0) {
      sort_as<Packed>(kept, out);
    } else {
      sort_as<Wide>(kept, out);
    }
    return out;
  }

 private:
  // Calls visit(position over all lists, list, position in it, source) for each reference of a part.
  template <class Visit>
  void each(int64_t part, const Visit& visit) const {
    const int64_t begin = size_ * part / parts_, end = size_ * (part + 1) / parts_;
    for (size_t l = 0; l < lists_.size(); ++l) {
      const ReferenceList<Real>& list = lists_[l];
      const int64_t first = std::max<int64_t>(begin - start_[l], 0), last = std::min(end - start_[l], list.size);
      if (first >= last) continue;
      const int64_t reads = std::max<int64_t>(list.reads, 1);
      int64_t source = list.first_source + first / reads, read = first % reads;
      for (int64_t p = first; p < last; ++p) {
        visit(start_[l] + p, list, p, source);
        if (++read == reads) {
          read = 0;
          ++source;
        }
      }
    }
  }

  // Counts the references that each part keeps. Returns the first row below 0, or 0.
  int64_t check(std::vector<int64_t>& kept) {
    std::vector<int64_t> largest(parts_, 0), bad(parts_, 0);
    run_(parts_, [&](int64_t part) {
      int64_t count = 0, largest_row = 0, bad_row = 0;
      each(part, [&](int64_t, const ReferenceList<Real>& list, int64_t p, int64_t) {
        if (list.row[p] < 0 && bad_row == 0) bad_row = list.row[p];
        const bool keep = list.coefficient[p] != 0;
        count += keep;
        largest_row = std::max(largest_row, keep ? list.row[p] : 0);
      });
      kept[part + 1] = count;
      largest[part] = largest_row;
      bad[part] = bad_row;
    });
    for (const int64_t row : largest) largest_row_ = std::max(largest_row_, row);
    const auto first = std::find_if(bad.begin(), bad.end(), [](int64_t row) { return row < 0; });
    return first == bad.end() ? 0 : *first;
  }

  void start_rows(const std::vector<int64_t>& rows, SortedReferences<Real>& out) const {
    out.rows = rows.back();
    out.row = std::make_unique_for_overwrite<int64_t[]>(out.rows);
    out.begin = std::make_unique_for_overwrite<int64_t[]>(out.rows + 1);
    out.begin[out.rows] = out.size;
  }

  struct Reference {
    int32_t row, source;
    Real coefficient;
  };

  // Ranges of rows with about as many references each, so few that the sort of a range stays in the first-level cache.
  // No two threads write into one cache line. Range r has bins bin[r] .. bin[r + 1] - 1 and references
  // begin[r] .. begin[r + 1] - 1; those of part p begin at next[p][r].
  struct Ranges {
    int bin_bits;
    std::vector<int32_t> of_bin;
    std::vector<int64_t> bin, begin;
    std::vector<std::vector<int64_t>> next;
    int64_t count() const { return static_cast<int64_t>(begin.size()) - 1; }
    int64_t first_row(int64_t range) const { return bin[range] << bin_bits; }
  };

  Ranges ranges_of(int64_t size) const {
    const int row_bits = std::bit_width(static_cast<uint64_t>(largest_row_));
    const int bin_bits = std::max(kLeastBinBits, row_bits - kMostBinsBits);
    const int64_t bins = (largest_row_ >> bin_bits) + 1;
    std::vector<int64_t> in_bin(parts_ * bins, 0);
    run_(parts_, [&](int64_t part) {
      int64_t* const count_of = in_bin.data() + part * bins;
      each(part, [&](int64_t, const ReferenceList<Real>& list, int64_t p, int64_t) {
        if (list.coefficient[p] != 0) ++count_of[list.row[p] >> bin_bits];
      });
    });
    const int64_t count = std::min(bins, std::max(parts_, size / kRangeReferences));
    Ranges ranges{bin_bits,
                  std::vector<int32_t>(bins),
                  std::vector<int64_t>(count + 1, bins),
                  std::vector<int64_t>(count + 1, size),
                  {}};
    int64_t before = 0, last = -1;
    for (int64_t bin = 0; bin < bins; ++bin) {
      const int64_t range = std::min(count - 1, before * count / std::max<int64_t>(1, size));
      for (; last < range; ++last) {
        ranges.bin[last + 1] = bin;
        ranges.begin[last + 1] = before;
      }
      ranges.of_bin[bin] = static_cast<int32_t>(range);
      for (int64_t part = 0; part < parts_; ++part) before += in_bin[part * bins + bin];
    }
    std::vector<int64_t> next(ranges.begin.begin(), ranges.begin.end() - 1);
    for (int64_t part = 0; part < parts_; ++part) {
      ranges.next.push_back(next);
      for (int64_t bin = 0; bin < bins; ++bin) next[ranges.of_bin[bin]] += in_bin[part * bins + bin];
    }
    return ranges;
  }

  void sort_by_counting(SortedReferences<Real>& out) const {
    Ranges ranges = ranges_of(out.size);
    const auto references = std::make_unique_for_overwrite<Reference[]>(out.size);
    run_(parts_, [&](int64_t part) {
      int64_t* const next = ranges.next[part].data();
      each(part, [&](int64_t, const ReferenceList<Real>& list, int64_t p, int64_t source) {
        if (list.coefficient[p] == 0) return;
        const auto row = static_cast<int32_t>(list.row[p]);
        const int64_t to = next[ranges.of_bin[row >> ranges.bin_bits]]++;
        references[to] = {row, static_cast<int32_t>(source), list.coefficient[p]};
      });
    });
    // First how many references each row has, then where its next one goes.
    const auto of_row = std::make_unique_for_overwrite<int32_t[]>(ranges.first_row(ranges.count()));
    std::vector<int64_t> rows(ranges.count() + 1, 0);
    run_(ranges.count(), [&](int64_t range) {
      const int64_t first = ranges.first_row(range), last = ranges.first_row(range + 1);
      std::fill(of_row.get() + first, of_row.get() + last, 0);
      for (int64_t m = ranges.begin[range]; m < ranges.begin[range + 1]; ++m) ++of_row[references[m].row];
      rows[range + 1] =
          std::count_if(of_row.get() + first, of_row.get() + last, [](int32_t count) { return count > 0; });
    });
    for (int64_t range = 0; range < ranges.count(); ++range) rows[range + 1] += rows[range];
    start_rows(rows, out);
    run_(ranges.count(), [&](int64_t range) {
      const int64_t first = ranges.first_row(range), last = ranges.first_row(range + 1);
      int64_t next = ranges.begin[range], u = rows[range];
      for (int64_t row = first; row < last && u < rows[range + 1]; ++row) {
        out.row[u] = row;  // overwritten by the next row if this one has no reference, which needs no branch
        out.begin[u] = next;
        const int32_t count = std::exchange(of_row[row], static_cast<int32_t>(next));
        next += count;
        u += count > 0;
      }
      for (int64_t m = ranges.begin[range]; m < ranges.begin[range + 1]; ++m) {
        const Reference& reference = references[m];
        const int32_t to = of_row[reference.row]++;
        out.source[to] = reference.source;
        out.coefficient[to] = reference.coefficient;
      }
    });
  }

  template <class Item>
  void sort_as(const std::vector<int64_t>& kept, SortedReferences<Real>& out) {
    auto items = std::make_unique_for_overwrite<Item[]>(out.size);
    auto other = std::make_unique_for_overwrite<Item[]>(out.size);
    run_(parts_, [&](int64_t part) {
      int64_t next = kept[part];
      each(part, [&](int64_t position, const ReferenceList<Real>& list, int64_t p, int64_t) {
        if (list.coefficient[p] != 0) items[next++] = Item::of(list.row[p], position);
      });
    });
    const int bits = std::max<int>(1, std::bit_width(static_cast<uint64_t>(largest_row_)));
    const int passes = (bits + kDigitBits - 1) / kDigitBits;
    const int digit_bits = (bits + passes - 1) / passes;
    for (int pass = 0; pass < passes; ++pass) {
      sort_by_digit(items.get(), other.get(), out.size, pass * digit_bits, digit_bits);
      std::swap(items, other);
    }
    group(items.get(), out);
  }

  template <class Item>
  void sort_by_digit(const Item* from, Item* to, int64_t size, int shift, int bits) const {
    const int64_t digits = int64_t{1} << bits;
    const auto digit_of = [&](const Item& item) { return (item.row() >> shift) & (digits - 1); };
    std::vector<int64_t> of_digit(parts_ * digits, 0);  // how many, then where the next one goes
    const auto each_item = [&](int64_t part, const auto& visit) {
      for (int64_t m = size * part / parts_; m < size * (part + 1) / parts_; ++m) visit(from[m]);
    };
    run_(parts_, [&](int64_t part) {
      int64_t* count = of_digit.data() + part * digits;
      each_item(part, [&](const Item& item) { ++count[digit_of(item)]; });
    });
    int64_t before = 0;
    for (int64_t digit = 0; digit < digits; ++digit) {
      for (int64_t part = 0; part < parts_; ++part) before += std::exchange(of_digit[part * digits + digit], before);
    }
    run_(parts_, [&](int64_t part) {
      int64_t* next = of_digit.data() + part * digits;
      each_item(part, [&](const Item& item) { to[next[digit_of(item)]++] = item; });
    });
  }

  // Writes where each row begins, and its references.
  template <class Item>
  void group(const Item* items, SortedReferences<Real>& out) const {
    const auto begin_of = [&](int64_t part) { return out.size * part / parts_; };
    const auto begins = [items](int64_t m) { return m == 0 || items[m].row() != items[m - 1].row(); };
    std::vector<int64_t> rows(parts_ + 1, 0);
    run_(parts_, [&](int64_t part) {
      int64_t count = 0;
      for (int64_t m = begin_of(part); m < begin_of(part + 1); ++m) count += begins(m);
      rows[part + 1] = count;
    });
    for (int64_t part = 0; part < parts_; ++part) rows[part + 1] += rows[part];
    start_rows(rows, out);
    run_(parts_, [&](int64_t part) {
      int64_t u = rows[part];
      for (int64_t m = begin_of(part); m < begin_of(part + 1); ++m) {
        if (begins(m)) {
          out.row[u] = items[m].row();
          out.begin[u++] = m;
        }
        size_t l = lists_.size() - 1;
        while (l > 0 && start_[l] > items[m].position()) --l;
        const ReferenceList<Real>& list = lists_[l];
        const int64_t p = items[m].position() - start_[l];
        out.source[m] = static_cast<int32_t>(list.first_source + quotient_[l](p));
        out.coefficient[m] = list.coefficient[p];
      }
    });
  }

  std::span<const ReferenceList<Real>> lists_;
  std::vector<int64_t> start_;  // of each list, over all references
  std::vector<Quotient> quotient_;
  int64_t parts_, size_ = 0, largest_row_ = 0;
  const RunParts& run_;
};

}  // namespace

template <class Real>
SortedReferences<Real> sort_references(std::span<const ReferenceList<Real>> lists, int64_t parts, const RunParts& run) {
  return ReferenceSorter<Real>(lists, parts, run).sort();
}

template SortedReferences<float> sort_references(std::span<const ReferenceList<float>>, int64_t, const RunParts&);
template SortedReferences<double> sort_references(std::span<const ReferenceList<double>>, int64_t, const RunParts&);

}  // namespace loci
