#include "loci/table/read_background.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>

#include "loci/base/check.h"
#include "loci/table/safetensors.h"

namespace loci {
namespace {

constexpr const char* kBatches = "batches";  // [1] I64
constexpr const char* kReading = "reading";  // [N] I64

SafetensorsTensor numbers(const char* name, std::span<const int64_t> values) {
  return {name, DType::I64, {static_cast<int64_t>(values.size())}, std::as_bytes(values)};
}

std::vector<int64_t> numbers_of(const SafetensorsReader& file, const char* name) {
  const std::span<const std::byte> bytes = file.bytes(name);
  const SafetensorsEntry& entry = *file.find(name);
  if (entry.dtype != DType::I64 || entry.shape.size() != 1) {
    fail(ExitCode::input, file.path().string(), fmt::format("{} must be I64 with one dimension", name),
         fmt::format("{} with {}", name_of(entry.dtype), entry.shape.size()));
  }
  std::vector<int64_t> values(bytes.size() / sizeof(int64_t));
  if (!values.empty()) std::memcpy(values.data(), bytes.data(), bytes.size());  // they may be misaligned
  return values;
}

}  // namespace

ReadBackground::ReadBackground(int64_t rows) {
  if (rows < 1) fail(ExitCode::usage, "ReadBackground", "rows must be at least 1", std::to_string(rows));
  reading_.resize(static_cast<size_t>(rows));
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
  for (const int64_t row : read) ++reading_[static_cast<size_t>(row)];
  ++batches_;
}

std::vector<int64_t> ReadBackground::unusual_rows(std::span<const int64_t> index, int64_t most) const {
  if (most < 0) fail(ExitCode::usage, "unusual_rows", "most must be at least 0", std::to_string(most));
  struct Scored {
    double score;
    int64_t row;
  };
  const std::vector<int64_t> read = counted(index);
  std::vector<Scored> scored;
  for (auto first = read.begin(); first != read.end();) {
    const auto last = std::upper_bound(first, read.end(), *first);
    const double share = static_cast<double>(last - first) / static_cast<double>(read.size());
    const double rarity = static_cast<double>(batches_ + 1) / static_cast<double>(reading_[size_t(*first)] + 1);
    scored.push_back({share * std::log(rarity), *first});
    first = last;
  }
  const auto kept = scored.begin() + std::min<int64_t>(most, static_cast<int64_t>(scored.size()));
  std::partial_sort(scored.begin(), kept, scored.end(), [](const Scored& a, const Scored& b) {
    return a.score != b.score ? a.score > b.score : a.row < b.row;
  });
  std::vector<int64_t> rows;
  for (auto place = scored.begin(); place != kept; ++place) rows.push_back(place->row);
  std::sort(rows.begin(), rows.end());
  return rows;
}

void ReadBackground::save(const std::filesystem::path& path) const {
  write_safetensors(path, {numbers(kReading, reading_), numbers(kBatches, {&batches_, 1})});
}

ReadBackground ReadBackground::load(const std::filesystem::path& path) {
  const SafetensorsReader file(path);
  const std::vector<int64_t> reading = numbers_of(file, kReading), batches = numbers_of(file, kBatches);
  const auto bad = [&](int64_t count) { return count < 0 || count > batches.front(); };
  if (reading.empty() || batches.size() != 1 || batches.front() < 0 ||
      std::any_of(reading.begin(), reading.end(), bad)) {
    fail(ExitCode::input, path.string(), "counts must be within 0 and one number of batches", "others");
  }
  ReadBackground background(static_cast<int64_t>(reading.size()));
  background.batches_ = batches.front();
  background.reading_ = reading;
  return background;
}

}  // namespace loci
