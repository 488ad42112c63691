// The options of a video network: checks, where its non-local blocks stand, counts. The network:
// video_resnet.h.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "loci/base/config_fields.h"
#include "loci/nn/relation/non_local_options.h"

namespace loci {

// Kernels over frames: none (C2D); of the first convolution of every second bottleneck; of its second.
enum class Inflation { none, first_convolution, second_convolution };
// A convolution: channels, kernel and stride over frames, height and width; padding keeps "same" positions.
struct VideoConvolution {
  std::string name;  // "layer1.0.conv2"
  int64_t inputs, outputs;
  MapExtents kernel, stride;

  MapExtents padding() const;
  MapExtents output_of(const MapExtents& map) const;
};

// [model.non_local]; channels and dimensions are the stage's.
struct VideoNonLocalOptions : NonLocalOptions {
  std::vector<int64_t> blocks = {0, 0, 1, 0};  // of each stage, res2 first, at non_local_places()
  std::vector<std::string> after;              // "res4.2", from 0: these places in the place of `blocks`
  void fields(ConfigFields& f);
};

// [model]
struct VideoResnetOptions {
  static constexpr int64_t kStages = 4;

  std::vector<int64_t> bottleneck_counts;  // of each stage, res2 first; empty: those of `depth`
  int64_t depth = 50;                      // 50 or 101
  int64_t time_halvings = 3;               // 3: by conv1, pool1 and pool2 (the paper's 32 frames); 1: by pool2; 0: none
  int64_t classes = 400;                   // no field: the data has them
  int64_t channels = 3;                    // of the clips; no field
  int64_t width = 64;        // of conv1; a stage's bottlenecks have 4, 8, 16 and 32 times as many channels
  int64_t first_kernel = 7;  // height and width of conv1's
  Inflation inflation = Inflation::none;
  double dropout = 0.5;
  bool stride_in_first = false;  // the stride of a stage in its first 1x1 convolution
  bool has_non_local = false;
  VideoNonLocalOptions non_local;
  void fields(ConfigFields& f);

  // Throws Error (usage) for options that do not fit each other.
  void check() const;
  std::array<int64_t, kStages> bottlenecks() const;
  // The bottlenecks of a stage (from 0) that a non-local block follows.
  std::vector<int64_t> blocks_after(int64_t stage) const;
  int64_t stage_width(int64_t stage) const { return width << stage; }  // inside of a bottleneck
  int64_t stage_channels(int64_t stage) const { return 4 * stage_width(stage); }
  VideoConvolution first_convolution() const;
  // conv1, conv2, conv3 of a bottleneck and, where its shape changes, downsample.0.
  std::vector<VideoConvolution> convolutions(int64_t stage, int64_t bottleneck) const;
  // pool1 and pool2: kernels and strides.
  std::pair<MapExtents, MapExtents> pool1() const, pool2() const;
  NonLocalOptions block_options(int64_t stage) const;
};

// 1, 5 or 10 blocks as the paper counts them: {0, 0, 1, 0}, {0, 2, 3, 0}, {0, 4, 6, 0}.
std::vector<int64_t> paper_blocks(int64_t count);

// Before anything is allocated; of one clip of T x H x W forward: convolutions, the linear layer, and in non-local
// blocks both products of pairs. Throws Error (usage).
int64_t count_video_resnet_parameters(const VideoResnetOptions& options);
int64_t video_resnet_multiply_adds(const VideoResnetOptions& options, const MapExtents& clip);
// Numbers that backward keeps of a clip: outputs of convolutions, norms and pools, and what a non-local block keeps.
double video_resnet_kept_numbers(const VideoResnetOptions& options, const MapExtents& clip);

}  // namespace loci
