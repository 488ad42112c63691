#include "bench/exchange_reads.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

#include "loci/base/check.h"
#include "loci/table/safetensors.h"
#include "loci/table/usage.h"
#include "loci/train/checkpoint_folder.h"
#include "loci/train/table_parts.h"

namespace loci::bench {
namespace {

constexpr int64_t kRemembered = int64_t{1} << 20;  // rows of a ZipfRows: the permutation is slower than a draw
constexpr int64_t kSumLimit = int64_t{1} << 26;    // larger files of a checkpoint are not summed: it is only sampled

bool is_counters(const SafetensorsEntry& entry) {
  return entry.dtype == DType::I32 && entry.shape.size() == 2 && entry.shape[1] == 3;
}

template <class T>
T element(std::span<const std::byte> bytes, int64_t i) {
  T value;
  std::memcpy(&value, bytes.data() + static_cast<size_t>(i) * sizeof(T), sizeof(T));
  return value;
}

// Sums the counters of a file, one for each layer that reads the table, into the rows that `row_of` names.
template <class RowOf>
void add_counters(const SafetensorsReader& file, std::vector<int64_t>& reads, RowOf row_of) {
  for (const SafetensorsEntry& entry : file.tensors()) {
    if (!is_counters(entry)) continue;
    const std::span<const std::byte> bytes = file.bytes(entry);
    for (int64_t i = 0; i < entry.shape[0]; ++i) {
      const int64_t row = row_of(i);
      if (row < 0 || row >= std::ssize(reads)) {
        fail(ExitCode::input, file.path().string(), fmt::format("rows must be within 0 .. {}", std::ssize(reads) - 1),
             fmt::to_string(row));
      }
      reads[static_cast<size_t>(row)] += element<RowUsage>(bytes, i).reads();
    }
  }
}

std::vector<int64_t> reads_of_part(const CheckpointReader& checkpoint, const TablePart& part) {
  const SafetensorsReader base(checkpoint.file(part.beside("counters")));
  int64_t rows = 0;
  for (const SafetensorsEntry& entry : base.tensors()) {
    if (is_counters(entry)) rows = std::max(rows, entry.shape[0]);
  }
  if (rows == 0 || (part.rows != kAnyRows && part.rows != rows)) {
    fail(ExitCode::input, base.path().string(), "the file must count the reads of its part's rows",
         fmt::to_string(rows) + " rows");
  }
  std::vector<int64_t> reads(static_cast<size_t>(rows), 0);
  add_counters(base, reads, [](int64_t i) { return i; });
  for (const TableDelta& delta : part.deltas) {
    const SafetensorsReader file(checkpoint.file(delta.file));
    const std::span<const std::byte> row = file.bytes("row");
    const int64_t changed = static_cast<int64_t>(row.size() / sizeof(int64_t));
    const auto row_of = [&](int64_t i) { return i < changed ? element<int64_t>(row, i) : -1; };
    for (int64_t i = 0; i < changed; ++i) {  // a delta has the new counts
      if (row_of(i) >= 0 && row_of(i) < rows) reads[static_cast<size_t>(row_of(i))] = 0;
    }
    add_counters(file, reads, row_of);
  }
  return reads;
}

}  // namespace

ZipfRows::ZipfRows(int64_t rows, double skew)
    : rows_(rows),
      skew_(skew),
      permutation_(static_cast<uint64_t>(rows), /*seed=*/1, /*stream=*/0),
      begin_(area(1.5) - 1),
      end_(area(static_cast<double>(rows) + 0.5)) {
  if (skew == 0) return;
  popular_.resize(static_cast<size_t>(std::min(rows, kRemembered)));
  for (size_t i = 0; i < popular_.size(); ++i) popular_[i] = static_cast<int64_t>(permutation_(i));
}

double ZipfRows::area(double x) const {
  return skew_ == 1 ? std::log(x) : (std::pow(x, 1 - skew_) - 1) / (1 - skew_);
}

double ZipfRows::inverse_area(double a) const {
  return skew_ == 1 ? std::exp(a) : std::pow(1 + a * (1 - skew_), 1 / (1 - skew_));
}

// Rejection by inversion (Hoermann and Derflinger 1996, "Rejection-inversion to generate variates from monotone
// discrete distributions"): r is accepted when the point falls on the last r^-skew of its area.
int64_t ZipfRows::draw(RandomSequence& random) const {
  if (skew_ == 0) return static_cast<int64_t>(random.below(static_cast<uint64_t>(rows_)));
  for (;;) {
    const double point = end_ + random.uniform() * (begin_ - end_);
    const double r = std::clamp(std::round(inverse_area(point)), 1.0, static_cast<double>(rows_));
    if (point < area(r + 0.5) - std::pow(r, -skew_)) continue;
    const auto popularity = static_cast<uint64_t>(r) - 1;
    return popularity < popular_.size() ? popular_[popularity] : static_cast<int64_t>(permutation_(popularity));
  }
}

CountedRows::CountedRows(const std::vector<int64_t>& reads) : below_(reads.size()) {
  std::inclusive_scan(reads.begin(), reads.end(), below_.begin());
}

int64_t CountedRows::draw(RandomSequence& random) const {
  const auto read = static_cast<int64_t>(random.below(static_cast<uint64_t>(below_.back())));
  return std::ranges::upper_bound(below_, read) - below_.begin();
}

std::vector<int64_t> counted_reads(const std::filesystem::path& folder, const std::string& table) {
  const CheckpointReader checkpoint(folder, kSumLimit);
  std::vector<std::string> counted;
  for (const std::string& name : tables_in(checkpoint)) {
    const std::vector<TablePart> parts = parts_of(checkpoint, name, kAnyRows);
    if (checkpoint.has(parts.front().beside("counters"))) counted.push_back(name);
  }
  if (!table.empty()) std::erase_if(counted, [&](const std::string& name) { return name != table; });
  if (counted.size() != 1) {
    fail(ExitCode::usage, "bench exchange, " + folder.string(),
         table.empty() ? "the checkpoint must count the reads of one table, or --table must name it"
                       : "the checkpoint must count the reads of " + table,
         counted.empty() ? "none" : fmt::format("{}", fmt::join(counted, ", ")));
  }
  std::vector<int64_t> reads;
  for (const TablePart& part : parts_of(checkpoint, counted.front(), kAnyRows)) {
    const std::vector<int64_t> more = reads_of_part(checkpoint, part);
    reads.insert(reads.end(), more.begin(), more.end());
  }
  if (std::ranges::all_of(reads, [](int64_t n) { return n == 0; })) {
    fail(ExitCode::input, folder.string(), "reads must have been counted", "none");
  }
  return reads;
}

void draw_token(const RowSource& source, int64_t heads, RandomSequence& random, std::span<int64_t> index) {
  constexpr int kTries = 64;  // then the next row: a head may have more reads than there are rows that are ever read
  const size_t of_head = index.size() / static_cast<size_t>(heads);
  for (size_t begin = 0; begin < index.size(); begin += of_head) {
    const auto head = index.subspan(begin, of_head);
    for (size_t i = 0; i < of_head; ++i) {
      const auto drawn = head.first(i);
      int64_t row = source.draw(random);
      for (int tries = 1; std::ranges::find(drawn, row) != drawn.end(); ++tries) {
        row = tries < kTries ? source.draw(random) : (row + 1) % source.rows();
      }
      head[i] = row;
    }
  }
}

}  // namespace loci::bench
