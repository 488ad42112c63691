#include "loci/table/read_background.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>

#include "loci/base/check.h"
#include "loci/table/page_memory.h"
#include "loci/table/safetensors.h"

namespace loci {
namespace {

constexpr const char* kBatches = "batches";  // [1] I64
constexpr const char* kReading = "reading";  // [N] I32

// The numbers of a file, copied: they may be misaligned.
template <class Number>
std::vector<Number> numbers_of(const SafetensorsReader& file, const char* name, DType dtype) {
  const std::span<const std::byte> bytes = file.bytes(name);
  const SafetensorsEntry& entry = *file.find(name);
  if (entry.dtype != dtype || entry.shape.size() != 1) {
    fail(ExitCode::input, file.path().string(), fmt::format("{} must be {} with one dimension", name, name_of(dtype)),
         fmt::format("{} with {}", name_of(entry.dtype), entry.shape.size()));
  }
  std::vector<Number> values(bytes.size() / sizeof(Number));
  if (!values.empty()) std::memcpy(values.data(), bytes.data(), bytes.size());
  return values;
}

}  // namespace

ReadBackground::ReadBackground(int64_t rows) : rows_(rows) {
  if (rows < 1) fail(ExitCode::usage, "ReadBackground", "rows must be at least 1", std::to_string(rows));
  reading_ = zero_pages("ReadBackground", rows, 0, at::kInt, PageSize::small);
}

std::span<const int32_t> ReadBackground::reading_batches() const {
  return {reading_.const_data_ptr<int32_t>(), static_cast<size_t>(rows_)};
}

void ReadBackground::reads(const MemoryReads& reads) {
  const at::Tensor index = reads.index.to(at::kCPU).contiguous();
  add_batch({index.const_data_ptr<int64_t>(), static_cast<size_t>(index.numel())});
}

// The rows of a batch, ascending, each as often as it was read.
std::vector<int64_t> ReadBackground::counted(std::span<const int64_t> index) const {
  std::vector<int64_t> sorted(index.begin(), index.end());
  std::sort(sorted.begin(), sorted.end());
  if (!sorted.empty() && (sorted.front() < 0 || sorted.back() >= rows())) {
    fail(ExitCode::bug, "ReadBackground", fmt::format("rows must be within 0 .. {}", rows() - 1),
         std::to_string(sorted.front() < 0 ? sorted.front() : sorted.back()));
  }
  return sorted;
}

void ReadBackground::add_batch(std::span<const int64_t> index) {
  std::vector<int64_t> read = counted(index);
  read.erase(std::unique(read.begin(), read.end()), read.end());
  if (batches_ == std::numeric_limits<int32_t>::max()) {
    fail(ExitCode::usage, "ReadBackground", "batches must be at most 2^31 - 1", "one more");
  }
  auto* const reading = reading_.mutable_data_ptr<int32_t>();
  for (const int64_t row : read) ++reading[row];
  ++batches_;
}

std::vector<int64_t> ReadBackground::unusual_rows(std::span<const int64_t> index, int64_t most) const {
  if (most < 0) fail(ExitCode::usage, "unusual_rows", "most must be at least 0", std::to_string(most));
  struct Scored {
    double score;
    int64_t row;
  };
  const std::vector<int64_t> read = counted(index);
  const std::span<const int32_t> reading = reading_batches();
  std::vector<Scored> scored;
  for (auto first = read.begin(); first != read.end();) {
    const auto last = std::upper_bound(first, read.end(), *first);
    const double share = static_cast<double>(last - first) / static_cast<double>(read.size());
    const double rarity = static_cast<double>(batches_ + 1) / (reading[static_cast<size_t>(*first)] + 1.0);
    scored.push_back({share * std::log(rarity), *first});
    first = last;
  }
  const auto kept = scored.begin() + std::min<int64_t>(most, static_cast<int64_t>(scored.size()));
  std::partial_sort(scored.begin(), kept, scored.end(), [](const Scored& a, const Scored& b) {
    return a.score != b.score ? a.score > b.score : a.row < b.row;
  });
  std::vector<int64_t> rows;
  for (auto best = scored.begin(); best != kept; ++best) rows.push_back(best->row);
  std::sort(rows.begin(), rows.end());
  return rows;
}

void ReadBackground::save(const std::filesystem::path& path) const {
  write_safetensors(path, {{kReading, DType::I32, {rows_}, std::as_bytes(reading_batches())},
                           {kBatches, DType::I64, {1}, std::as_bytes(std::span(&batches_, 1))}});
}

ReadBackground ReadBackground::load(const std::filesystem::path& path) {
  const SafetensorsReader file(path);
  const auto reading = numbers_of<int32_t>(file, kReading, DType::I32);
  const auto batches = numbers_of<int64_t>(file, kBatches, DType::I64);
  const auto bad = [&](int32_t count) { return count < 0 || count > batches.front(); };
  if (reading.empty() || batches.size() != 1 || batches.front() < 0 ||
      batches.front() > std::numeric_limits<int32_t>::max() || std::any_of(reading.begin(), reading.end(), bad)) {
    fail(ExitCode::input, path.string(), "counts must be within 0 and one number of batches", "others");
  }
  ReadBackground background(static_cast<int64_t>(reading.size()));
  background.batches_ = batches.front();
  // Rows that were never read stay untouched pages.
  auto* const copy = background.reading_.mutable_data_ptr<int32_t>();
  for (size_t row = 0; row < reading.size(); ++row) {
    if (reading[row] != 0) copy[row] = reading[row];
  }
  return background;
}

}  // namespace loci
