// The options of a non-local block (Wang, Girshick, Gupta and He 2018, "Non-local Neural Networks"). The block:
// non_local.h.
//
// Legend: C channels, I inner width, T frames, H height, W width of a map.
#pragma once

#include <array>
#include <cstdint>
#include <utility>
#include <vector>

#include "loci/base/config_fields.h"

namespace loci {

enum class PairForm { gaussian, embedded, dot, concat };
// Of the logits of `embedded`: none (the paper), or 1 / sqrt(I) (the authors' release).
enum class PairScale { none, rsqrt };
// Max pooling of the keys' and values' side: none, of x in front of phi and g, or of phi and g.
enum class PairPool { none, before, after };
// Which keys a query sees: all; those of its frame; those at its place in every frame; those in its group of frames;
// those in its window.
enum class PairDomain { spacetime, space, time, groups, window };
// After W_z: batch norm, batch norm whose statistics stay as they are, the norm over a sample without parameters, none.
enum class PairNorm { batch, frozen, layer, none };
// Of the weights: N(0, 2 / inputs) (He et al. 2015, the paper), or N(0, 0.01^2) (the release).
enum class PairStart { he, small };

using MapExtents = std::array<int64_t, 3>;  // T, H, W; 1 for those that a map does not have

struct NonLocalOptions {
  int64_t channels = 0;    // C; no field: the network has them
  int64_t dimensions = 2;  // no field; 1 [B, C, W], 2 [B, C, H, W], 3 [B, C, T, H, W]
  int64_t inner = 0;       // I; 0: max(1, C / 2)
  PairForm form = PairForm::embedded;
  PairScale scale = PairScale::rsqrt;
  PairPool pool = PairPool::before;
  std::vector<int64_t> pool_kernel;  // by dimension; empty: 2 in space, 1 in time
  PairDomain domain = PairDomain::spacetime;
  int64_t group = 4;            // frames, of `groups`
  std::vector<int64_t> window;  // by dimension, of `window`
  PairNorm norm = PairNorm::batch;
  bool output_bias = true;  // of W_z
  PairStart start = PairStart::he;
  void fields(ConfigFields& f);

  // As the paper has it: no scale, pooling after phi and g, He's start.
  static NonLocalOptions paper(int64_t channels, int64_t dimensions);
  // As the authors' release has it: scale, pooling before, start N(0, 0.01^2).
  static NonLocalOptions release(int64_t channels, int64_t dimensions);

  // Throws Error (usage) for options that do not fit each other.
  void check() const;
  int64_t inner_width() const;
  MapExtents kernel() const;  // of pooling; 1s without it
  // A query's window and that of its keys. Throws Error (usage) for maps that windows do not divide or that are smaller
  // than the pooling kernel.
  std::pair<MapExtents, MapExtents> windows(const MapExtents& map) const;
  bool has_embeddings() const { return form != PairForm::gaussian; }
};

// The residual blocks of a stage of n, from 0, that `count` non-local blocks follow: one stands before the last (the
// paper), others follow every floor(n / count)-th (the release).
std::vector<int64_t> non_local_places(int64_t n, int64_t count);

// Of a pooled map.
MapExtents pooled_extents(const MapExtents& map, const MapExtents& kernel);

int64_t count_non_local_parameters(const NonLocalOptions& options);
// Of one sample forward: convolutions and both products of pairs in the order of the formula. Throws Error (usage) for
// counts beyond int64.
int64_t non_local_multiply_adds(const NonLocalOptions& options, const MapExtents& map);

}  // namespace loci
