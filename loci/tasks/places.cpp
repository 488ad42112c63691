// Legend: M frames, B frames of a batch, H heads, K top_k, c features.
#include "loci/tasks/places.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/bincount.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros_like.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <numeric>
#include <set>
#include <utility>

#include "loci/base/random.h"
#include "loci/base/stop_signal.h"
#include "loci/table/read_observer.h"

namespace loci {
namespace {

constexpr int64_t kPlacedAtOnce = 128;  // frames
constexpr int kRounds = 25;             // of Lloyd's algorithm
constexpr size_t kRowsShown = 16;

// Keeps what each frame of a pass reads.
class FrameReads : public ReadObserver {
 public:
  void reads(const MemoryReads& reads) override {
    const at::Tensor index = reads.index.flatten(1).contiguous();  // [B, H * K]
    const at::Tensor weight = reads.weight.flatten(1).to(at::kDouble).contiguous();
    for (int64_t b = 0; b < index.size(0); ++b) {
      std::map<int64_t, double> mass;
      double sum = 0;
      for (int64_t i = 0; i < index.size(1); ++i) {
        const double w = weight.const_data_ptr<double>()[b * index.size(1) + i];
        if (w <= 0) continue;
        mass[index.const_data_ptr<int64_t>()[b * index.size(1) + i]] += w;
        sum += w;
      }
      std::vector<RowMass>& frame = rows.emplace_back();
      for (const auto& [row, of_row] : mass) frame.push_back({row, of_row / sum});
    }
  }
  std::vector<std::vector<RowMass>> rows;
};

// All frames in order; what the memory reads, and the features [M, c].
std::pair<std::vector<std::vector<RowMass>>, at::Tensor> read_frames(Posenet& model, const OpenedPoses& data,
                                                                     const ChannelScale& scale,
                                                                     ProgressLine* progress) {
  const at::NoGradGuard guard;
  const auto reads = std::make_shared<FrameReads>();
  std::vector<at::Tensor> features;
  const ObserverScope reading(*model.memory(), reads);
  for (int64_t begin = 0; begin < data.images.size(); begin += kPlacedAtOnce) {
    StopSignal::check("stopped while frames were read");
    if (progress != nullptr) progress->show(fmt::format("reading: {} of {} frames", begin, data.images.size()));
    std::vector<int64_t> frames(static_cast<size_t>(std::min(kPlacedAtOnce, data.images.size() - begin)));
    std::iota(frames.begin(), frames.end(), begin);
    features.push_back(model.read(data.input(frames, scale)).to(at::kFloat));
  }
  return {std::move(reads->rows), at::cat(features)};
}

// The network as it started. Its norms see all frames once, in training mode, so that evaluation has statistics.
std::vector<std::vector<RowMass>> untrained_reads(const Posenet& trained, const OpenedPoses& data,
                                                  const ChannelScale& scale, uint64_t seed, ProgressLine* progress) {
  Posenet model(trained.options(), seed);
  model.train();
  read_frames(model, data, scale, progress);
  model.eval();
  return read_frames(model, data, scale, progress).first;
}

double frames_a_row(const std::vector<std::vector<RowMass>>& rows) {
  std::set<int64_t> distinct;
  int64_t reads = 0;
  for (const auto& frame : rows) {
    reads += std::ssize(frame);
    for (const RowMass& read : frame) distinct.insert(read.row);
  }
  return static_cast<double>(reads) / static_cast<double>(std::max<size_t>(1, distinct.size()));
}

nlohmann::json statistics_json(const SpatialCorrelation& found) {
  return {
      {"overlap", found.overlap.value},       {"overlap_p", found.overlap.p}, {"information", found.information.value},
      {"information_p", found.information.p}, {"rows", found.rows.size()},    {"median_spread", found.median_spread},
      {"below_half", found.below_half},       {"found", found.found}};
}

// The rows with most mass, with their mass in each frame, for a plan of the floor.
nlohmann::json shown_rows(const SpatialCorrelation& found, const std::vector<std::vector<RowMass>>& reads) {
  nlohmann::json shown = nlohmann::json::array();
  for (size_t i = 0; i < std::min(kRowsShown, found.rows.size()); ++i) {
    const RowSpread& row = found.rows[i];
    std::vector<double> mass(reads.size());
    for (size_t frame = 0; frame < reads.size(); ++frame) {
      for (const RowMass& read : reads[frame]) {
        if (read.row == row.row) mass[frame] = read.mass;
      }
    }
    shown.push_back({{"row", row.row},
                     {"images", row.images},
                     {"mass", row.mass},
                     {"spread", row.spread},
                     {"p", row.p},
                     {"found", row.found},
                     {"mass_of_frames", mass}});
  }
  return shown;
}

std::string statistics_text(const char* name, const SpatialCorrelation& found) {
  return fmt::format("  {:10} {:8.3f} {:8.3f} {:12.3f} {:8.3f} {:6} {:8.2f} {:11.0f} % {:6.0f} %\n", name,
                     found.overlap.value, found.overlap.p, found.information.value, found.information.p,
                     found.rows.size(), found.median_spread, 100 * found.below_half, 100 * found.found);
}

}  // namespace

std::vector<int64_t> k_means(const at::Tensor& x, int64_t clusters, uint64_t seed) {
  const int64_t count = x.size(0);
  clusters = std::min(clusters, count);
  const CounterPermutation drawn(static_cast<uint64_t>(count), seed, stream_of("k-means"));
  at::Tensor first = at::empty({clusters}, at::kLong);
  for (int64_t i = 0; i < clusters; ++i) {
    first.mutable_data_ptr<int64_t>()[i] = static_cast<int64_t>(drawn(static_cast<uint64_t>(i)));
  }
  at::Tensor centre = x.index_select(0, first), cluster;  // [clusters, c], [M]
  for (int round = 0; round < kRounds; ++round) {
    const at::Tensor offset = centre.square().sum(1).mul_(-0.5);
    at::Tensor nearest = at::addmm(offset, x, centre.t()).argmax(1);
    if (cluster.defined() && nearest.equal(cluster)) break;
    cluster = std::move(nearest);
    const at::Tensor members = at::bincount(cluster, {}, clusters).unsqueeze(1);
    const at::Tensor sum = at::zeros_like(centre).index_add_(0, cluster, x);
    centre = at::where(members.gt(0), sum / members.clamp_min(1), centre);
  }
  const auto* begin = cluster.const_data_ptr<int64_t>();
  return {begin, begin + count};
}

Account account_of_places(Posenet& model, const OpenedPoses& data, const ChannelScale& scale, uint64_t seed,
                          ProgressLine* progress) {
  const c10::impl::ExcludeDispatchKeyGuard exact(c10::autocast_dispatch_keyset);
  const auto [reads, features] = read_frames(model, data, scale, progress);
  const auto clusters = static_cast<int64_t>(static_cast<double>(reads.size()) / frames_a_row(reads));
  std::vector<std::vector<RowMass>> clustered;
  for (const int64_t cluster : k_means(features, std::max<int64_t>(2, clusters), seed)) {
    clustered.push_back({{cluster, 1.0}});
  }
  PlacedReads placed;
  for (const Pose& pose : data.poses) placed.positions.push_back(pose.position);
  placed.paths = data.paths;

  Account account;
  account.text =
      "Rows and places: overlap of two frames' rows against their nearness, information between rows and cells of 0.25 "
      "m\n"
      "of the floor (nats above chance), spread of a row's frames (1: as if anywhere); p by shifted poses\n"
      "               overlap        p  information        p   rows   spread  below half  found\n";
  account.json["positions"] = placed.positions;
  account.json["paths"] = placed.paths;
  const auto add = [&](const char* name, std::vector<std::vector<RowMass>> rows) {
    if (progress != nullptr) progress->show(fmt::format("permuting poses: {}", name));
    placed.rows = std::move(rows);
    const SpatialCorrelation found = spatial_correlation(placed, {.seed = seed});
    account.text += statistics_text(name, found);
    account.json[name] = statistics_json(found);
    if (std::string_view(name) == "memory") account.json["shown"] = shown_rows(found, placed.rows);
  };
  add("memory", reads);
  add("untrained", untrained_reads(model, data, scale, seed, progress));
  add("clusters", std::move(clustered));
  return account;
}

}  // namespace loci
