// Legend: M images, P permutations.
#include "loci/data/poses/spatial_correlation.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <utility>

#include "loci/base/check.h"
#include "loci/base/median.h"
#include "loci/base/random_sequence.h"
#include "loci/data/parallel_items.h"

namespace loci {
namespace {

constexpr double kFalseDiscoveries = 0.05;

// Of values as they are: the means of tied ranks, less the mean of all ranks.
std::vector<double> centred_ranks(std::span<const double> values) {
  std::vector<size_t> order(values.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::sort(order.begin(), order.end(), [&](size_t a, size_t b) { return values[a] < values[b]; });
  std::vector<double> ranks(values.size());
  const double middle = static_cast<double>(values.size() - 1) / 2;
  for (size_t begin = 0; begin < order.size();) {
    size_t end = begin + 1;
    while (end < order.size() && values[order[end]] == values[order[begin]]) ++end;
    for (size_t i = begin; i < end; ++i) ranks[order[i]] = static_cast<double>(begin + end - 1) / 2 - middle;
    begin = end;
  }
  return ranks;
}

double cosine_of(std::span<const double> a, std::span<const double> b) {
  const double ab = std::inner_product(a.begin(), a.end(), b.begin(), 0.0);
  const double aa = std::inner_product(a.begin(), a.end(), a.begin(), 0.0);
  const double bb = std::inner_product(b.begin(), b.end(), b.begin(), 0.0);
  return aa > 0 && bb > 0 ? ab / std::sqrt(aa * bb) : 0;
}

double p_value(int64_t as_extreme, int64_t permutations) {
  return static_cast<double>(1 + as_extreme) / static_cast<double>(1 + permutations);
}

// For each permutation the image whose position each image gets; number 0 changes nothing.
class Permutations {
 public:
  Permutations(const PlacedReads& reads, const SpatialOptions& options) {
    const auto images = static_cast<int64_t>(reads.rows.size());
    std::map<int64_t, std::vector<int32_t>> paths;
    for (size_t i = 0; i < reads.paths.size(); ++i) paths[reads.paths[i]].push_back(static_cast<int32_t>(i));
    for (const auto& [path, frames] : paths) check_length(static_cast<int64_t>(frames.size()), options.shift);
    std::vector<int32_t> same(static_cast<size_t>(images));
    std::iota(same.begin(), same.end(), 0);
    drawn_.push_back(same);
    RandomSequence random(CounterRandom(options.seed, "spatial correlation permutations"));
    for (int64_t p = 0; p < options.permutations; ++p) {
      std::vector<int32_t> image = same;
      if (paths.empty()) random.shuffle(image);
      for (const auto& [path, frames] : paths) {
        const size_t by = random.between(static_cast<uint64_t>(options.shift), frames.size() - options.shift);
        for (size_t i = 0; i < frames.size(); ++i) image[frames[i]] = frames[(i + by) % frames.size()];
      }
      drawn_.push_back(std::move(image));
    }
  }
  int64_t count() const { return static_cast<int64_t>(drawn_.size()); }
  std::span<const int32_t> operator[](int64_t number) const { return drawn_[number]; }

 private:
  static void check_length(int64_t frames, int64_t shift) {
    if (frames > 2 * shift) return;
    fail(ExitCode::usage, "spatial_correlation",
         fmt::format("a path must have at least {} frames to be shifted by {}", 2 * shift + 1, shift),
         fmt::to_string(frames));
  }
  std::vector<std::vector<int32_t>> drawn_;
};

// Of both, rows ascending.
double overlap_of(const std::vector<RowMass>& a, const std::vector<RowMass>& b) {
  double overlap = 0;
  for (auto x = a.begin(), y = b.begin(); x != a.end() && y != b.end();) {
    if (x->row == y->row)
      overlap += std::min(x++->mass, y++->mass);
    else if (x->row < y->row)
      ++x;
    else
      ++y;
  }
  return overlap;
}

SpatialStatistic overlap_statistic(const PlacedReads& reads, const SpatialOptions& options,
                                   const Permutations& permutations) {
  RandomSequence random(CounterRandom(options.seed, "spatial correlation pairs"));
  const auto images = static_cast<uint64_t>(reads.rows.size());
  std::vector<std::pair<size_t, size_t>> pairs;
  std::vector<double> overlap;
  for (int64_t i = 0; i < options.pairs; ++i) {
    const uint64_t a = random.below(images), b = (a + random.between(1, images - 1)) % images;
    pairs.emplace_back(a, b);
    overlap.push_back(overlap_of(reads.rows[a], reads.rows[b]));
  }
  const std::vector<double> overlap_ranks = centred_ranks(overlap);
  std::vector<double> correlation(static_cast<size_t>(permutations.count()));
  parallel_items(permutations.count(), [&](int64_t number, int64_t) {
    std::vector<double> nearness;
    for (const auto& [a, b] : pairs) {
      nearness.push_back(
          -distance_between(reads.positions[permutations[number][a]], reads.positions[permutations[number][b]]));
    }
    correlation[number] = cosine_of(overlap_ranks, centred_ranks(nearness));
  });
  const int64_t above =
      std::count_if(correlation.begin() + 1, correlation.end(), [&](double other) { return other >= correlation[0]; });
  return {correlation[0], p_value(above, options.permutations)};
}

// The images that read a row, with its mass in each.
struct Readers {
  int64_t row = 0;
  std::vector<std::pair<int32_t, double>> images;
  double mass() const {
    return std::accumulate(images.begin(), images.end(), 0.0, [](double sum, auto& i) { return sum + i.second; });
  }
};

std::vector<Readers> readers_of_rows(const PlacedReads& reads) {
  std::map<int64_t, Readers> found;
  for (size_t image = 0; image < reads.rows.size(); ++image) {
    for (const RowMass& read : reads.rows[image]) {
      found[read.row].images.emplace_back(static_cast<int32_t>(image), read.mass);
    }
  }
  std::vector<Readers> rows;
  for (auto& [row, readers] : found) {
    readers.row = row;
    rows.push_back(std::move(readers));
  }
  return rows;
}

// `centred`: positions whose mean is 0, so that little is lost to rounding.
double weighted_variance(const Readers& row, std::span<const Vector3> centred, std::span<const int32_t> image_of) {
  double mass = 0, squares = 0;
  Vector3 sum = {};
  for (const auto& [image, weight] : row.images) {
    const Vector3& at = centred[image_of[image]];
    mass += weight;
    for (size_t axis = 0; axis < 3; ++axis) {
      sum[axis] += weight * at[axis];
      squares += weight * at[axis] * at[axis];
    }
  }
  const double of_mean = (sum[0] * sum[0] + sum[1] * sum[1] + sum[2] * sum[2]) / mass;
  return std::max(0.0, (squares - of_mean) / mass);
}

std::vector<Vector3> centred_positions(std::vector<Vector3> positions) {
  for (size_t axis = 0; axis < 3; ++axis) {
    double mean = 0;
    for (const Vector3& at : positions) mean += at[axis] / static_cast<double>(positions.size());
    for (Vector3& at : positions) at[axis] -= mean;
  }
  return positions;
}

std::vector<RowSpread> row_spreads(const PlacedReads& reads, const SpatialOptions& options,
                                   const std::vector<Readers>& readers, const Permutations& permutations) {
  const std::vector<Vector3> centred = centred_positions(reads.positions);
  std::vector<const Readers*> kept;
  for (const Readers& row : readers) {
    if (static_cast<int64_t>(row.images.size()) >= options.fewest_images) kept.push_back(&row);
  }
  std::vector<RowSpread> spreads(kept.size());
  parallel_items(static_cast<int64_t>(kept.size()), [&](int64_t i, int64_t) {
    const Readers& row = *kept[i];
    const double observed = weighted_variance(row, centred, permutations[0]);
    double sum = 0;
    int64_t as_small = 0;
    for (int64_t number = 1; number < permutations.count(); ++number) {
      const double other = weighted_variance(row, centred, permutations[number]);
      sum += other;
      as_small += other <= observed ? 1 : 0;
    }
    const double mean = sum / static_cast<double>(options.permutations);
    spreads[i] = {row.row, static_cast<int64_t>(row.images.size()), row.mass() / static_cast<double>(reads.rows.size()),
                  mean > 0 ? observed / mean : 1, p_value(as_small, options.permutations)};
  });
  std::vector<double> p;
  for (const RowSpread& row : spreads) p.push_back(row.p);
  const std::vector<bool> found = discoveries(p, kFalseDiscoveries);
  for (size_t i = 0; i < spreads.size(); ++i) spreads[i].found = found[i];
  std::stable_sort(spreads.begin(), spreads.end(),
                   [](const RowSpread& a, const RowSpread& b) { return a.mass > b.mass; });
  return spreads;
}

// Which cell of the floor each image lies in, 0 .. cells-1.
std::vector<int64_t> cells_of(const PlacedReads& reads, const SpatialOptions& options, int64_t& cells) {
  std::map<std::pair<int64_t, int64_t>, int64_t> numbers;
  std::vector<int64_t> cell;
  for (const Vector3& at : reads.positions) {
    const auto along = [&](int64_t axis) { return static_cast<int64_t>(std::floor(at[axis] / options.cell)); };
    const auto place = std::pair(along(options.floor_axes[0]), along(options.floor_axes[1]));
    cell.push_back(numbers.try_emplace(place, static_cast<int64_t>(numbers.size())).first->second);
  }
  cells = static_cast<int64_t>(numbers.size());
  return cell;
}

double sum_of_p_log_p(std::span<const double> p) {
  double sum = 0;
  for (const double value : p) sum += value > 0 ? value * std::log(value) : 0;
  return sum;
}

// The masses of rows and of cells are the same in every permutation, so only the joint distribution is counted anew.
SpatialStatistic information_statistic(const PlacedReads& reads, const SpatialOptions& options,
                                       const std::vector<Readers>& readers, const Permutations& permutations) {
  int64_t cells = 0;
  const std::vector<int64_t> cell = cells_of(reads, options, cells);
  const double share = 1 / static_cast<double>(reads.rows.size());
  std::vector<double> of_cell(static_cast<size_t>(cells)), of_row;
  for (const int64_t at : cell) of_cell[at] += share;
  for (const Readers& row : readers) of_row.push_back(row.mass() * share);
  const double alone = sum_of_p_log_p(of_cell) + sum_of_p_log_p(of_row);

  std::vector<double> information(static_cast<size_t>(permutations.count()));
  parallel_items(permutations.count(), [&](int64_t number, int64_t) {
    const std::span<const int32_t> image_of = permutations[number];
    std::vector<double> joint(static_cast<size_t>(cells));
    double sum = 0;
    for (const Readers& row : readers) {
      std::fill(joint.begin(), joint.end(), 0.0);
      for (const auto& [image, mass] : row.images) joint[cell[image_of[image]]] += mass * share;
      sum += sum_of_p_log_p(joint);
    }
    information[number] = sum - alone;
  });
  const double mean =
      std::accumulate(information.begin() + 1, information.end(), 0.0) / static_cast<double>(options.permutations);
  const int64_t above =
      std::count_if(information.begin() + 1, information.end(), [&](double other) { return other >= information[0]; });
  return {information[0] - mean, p_value(above, options.permutations)};
}

void check_reads(const PlacedReads& reads, const SpatialOptions& options) {
  if (reads.rows.size() < 2) {
    fail(ExitCode::usage, "spatial_correlation", "there must be two images", fmt::to_string(reads.rows.size()));
  }
  if (reads.positions.size() != reads.rows.size() ||
      (!reads.paths.empty() && reads.paths.size() != reads.rows.size())) {
    fail(ExitCode::bug, "spatial_correlation", fmt::format("there must be {} positions and paths", reads.rows.size()),
         fmt::format("{} and {}", reads.positions.size(), reads.paths.size()));
  }
  if (options.permutations < 1 || options.pairs < 2 || options.shift < 1 || !(options.cell > 0)) {
    fail(ExitCode::bug, "spatial_correlation", "permutations, pairs, shift and cell must be positive", "others");
  }
}

}  // namespace

double rank_correlation(std::span<const double> a, std::span<const double> b) {
  return cosine_of(centred_ranks(a), centred_ranks(b));
}

std::vector<bool> discoveries(std::span<const double> p, double rate) {
  std::vector<double> sorted(p.begin(), p.end());
  std::sort(sorted.begin(), sorted.end());
  double bar = -1;
  for (size_t i = 0; i < sorted.size(); ++i) {
    if (sorted[i] <= rate * static_cast<double>(i + 1) / static_cast<double>(sorted.size())) bar = sorted[i];
  }
  std::vector<bool> found;
  for (const double value : p) found.push_back(value <= bar);
  return found;
}

SpatialCorrelation spatial_correlation(const PlacedReads& reads, const SpatialOptions& options) {
  check_reads(reads, options);
  PlacedReads sorted = reads;
  for (auto& rows : sorted.rows) std::ranges::sort(rows, {}, &RowMass::row);
  const Permutations permutations(sorted, options);
  const std::vector<Readers> readers = readers_of_rows(sorted);
  SpatialCorrelation result;
  result.overlap = overlap_statistic(sorted, options, permutations);
  result.information = information_statistic(sorted, options, readers, permutations);
  result.rows = row_spreads(sorted, options, readers, permutations);
  if (result.rows.empty()) return result;
  std::vector<double> spreads;
  for (const RowSpread& row : result.rows) {
    spreads.push_back(row.spread);
    result.below_half += row.spread < 0.5 ? 1 : 0;
    result.found += row.found ? 1 : 0;
  }
  result.below_half /= static_cast<double>(spreads.size());
  result.found /= static_cast<double>(spreads.size());
  result.median_spread = median_of(std::move(spreads));
  return result;
}

}  // namespace loci
