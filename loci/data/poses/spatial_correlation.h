// Whether images that were taken near each other read the same rows (the abstract of Karimov et al. 2021, "CNN with
// large memory layers", names a spatial correlation between images and the rows that they select; the statistics are
// ours).
//
// Legend: M images, P permutations, h_m(r) mass of row r in image m: its weights summed over positions and heads,
// divided by their sum; t_m position of image m's camera.
//
//   overlap      Spearman correlation of sum_r min(h_a(r), h_b(r)) with -|t_a - t_b| over pairs of images
//   spread       of row r: sum_m h_m(r) |t_m - mean|^2 / sum_m h_m(r), divided by its mean under permuted positions
//   information  mutual information of (row, cell of the floor) in nats, less its mean under permuted positions
//   p            (1 + number of permutations that are at least as extreme) / (1 + P)
//
// A permutation gives each image the position of another. Independent views are shuffled. Frames of a path are like
// their neighbours, and shuffled ones would make everything significant: each path's positions are shifted in a circle.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "loci/data/poses/rotation.h"

namespace loci {

struct RowMass {
  int64_t row = 0;
  double mass = 0;  // above 0
};

struct PlacedReads {
  std::vector<std::vector<RowMass>> rows;  // of each image: each row once, masses of sum 1
  std::vector<Vector3> positions;          // of each image's camera, metres
  std::vector<int64_t> paths;              // of each image, whose order is that of time; empty: independent views
};

struct SpatialOptions {
  int64_t permutations = 999;
  int64_t pairs = 5000;        // of images, drawn
  int64_t fewest_images = 20;  // a row that fewer read has no spread
  int64_t shift = 100;         // frames of a path that are taken to be alike; shifts are at least so long
  double cell = 0.25;          // edge of a cell, metres
  std::array<int64_t, 2> floor_axes = {0, 1};  // of positions
  uint64_t seed = 0;
};

struct SpatialStatistic {
  double value = 0;
  double p = 1;
};

struct RowSpread {
  int64_t row = 0;
  int64_t images = 0;  // that read it
  double mass = 0;     // share of all mass
  double spread = 1;   // 1: its images are as far apart as any
  double p = 1;
  bool found = false;  // with a false discovery rate of 5 %
};

struct SpatialCorrelation {
  SpatialStatistic overlap;
  SpatialStatistic information;
  std::vector<RowSpread> rows;  // that enough images read, by mass, the most first
  double median_spread = 1;     // of these rows
  double below_half = 0;        // share of these rows
  double found = 0;             // share of these rows
};

// The same for any number of threads. Throws Error (usage) for fewer than two images, and for a path of fewer than
// 2 `shift` + 1 frames.
SpatialCorrelation spatial_correlation(const PlacedReads& reads, const SpatialOptions& options = {});

// Of as many values as others, at least two; ties get the mean of their ranks. 0 where either has one value alone.
double rank_correlation(std::span<const double> a, std::span<const double> b);

// Which of the hypotheses with these p-values are rejected with a false discovery rate of `rate` (Benjamini and
// Hochberg 1995).
std::vector<bool> discoveries(std::span<const double> p, double rate);

}  // namespace loci
