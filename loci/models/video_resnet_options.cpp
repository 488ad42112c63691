#include "loci/models/video_resnet_options.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstdio>

#include "loci/base/check.h"

// Legend: n bottlenecks of a stage.

namespace loci {
namespace {

[[noreturn]] void refuse_video(const std::string& expected, const std::string& got) {
  fail(ExitCode::usage, "VideoResnet", expected, got);
}

// "res4.2" as stage 2 and bottleneck 2.
std::pair<int64_t, int64_t> place_of(const VideoResnetOptions& o, const std::string& text) {
  const auto counts = o.bottlenecks();
  int stage = 0, bottleneck = 0, length = 0;
  const bool read = std::sscanf(text.c_str(), "res%d.%d%n", &stage, &bottleneck, &length) == 2;
  if (read && length == std::ssize(text) && stage >= 2 && stage <= 5 && bottleneck >= 0 &&
      bottleneck < counts[static_cast<size_t>(stage - 2)]) {
    return {stage - 2, bottleneck};
  }
  refuse_video(fmt::format("non_local_after must be bottlenecks from res2.0 to res5.{}", counts[3] - 1), text);
}

// Inflated bottlenecks of the authors' release: all of res2; 0 and 2 of res3; the even ones of res4; 1 of res5.
bool inflates(int64_t stage, int64_t bottleneck) {
  return stage == 0 || (stage == 3 ? bottleneck == 1 : bottleneck % 2 == 0);
}

int64_t sum_of(int64_t a, int64_t b) {
  return checked_sum("VideoResnet", "parameters or multiply-adds", a, b);
}
int64_t product_of(std::initializer_list<int64_t> factors) {
  int64_t product = 1;
  for (const int64_t factor : factors) {
    product = checked_product("VideoResnet", "parameters or multiply-adds", product, factor);
  }
  return product;
}

int64_t weights_of(const VideoConvolution& c) {
  return product_of({c.inputs, c.outputs, c.kernel[0], c.kernel[1], c.kernel[2]});
}

MapExtents strided(const MapExtents& map, const MapExtents& kernel, const MapExtents& stride, const MapExtents& pad) {
  MapExtents result = {};
  for (size_t i = 0; i < 3; ++i) result[i] = (map[i] + 2 * pad[i] - kernel[i]) / stride[i] + 1;
  return result;
}

}  // namespace

void VideoResnetOptions::check() const {
  const auto need = [](bool holds, const char* expected, int64_t got) {
    if (!holds) refuse_video(expected, std::to_string(got));
  };
  need(depth == 50 || depth == 101, "depth must be 50 or 101", depth);
  need(frames == 8 || frames == 32, "frames must be 8 or 32", frames);
  need(classes >= 1, "classes must be at least 1", classes);
  need(channels >= 1, "channels must be at least 1", channels);
  need(width >= 1 && width <= 4096, "width must be within 1 .. 4096", width);
  if (!(dropout >= 0 && dropout < 1)) refuse_video("dropout must be at least 0 and below 1", fmt::to_string(dropout));
  const auto counts = bottlenecks();
  const bool fits =
      std::ssize(non_local) == kStages && std::equal(non_local.begin(), non_local.end(), counts.begin(),
                                                     [](int64_t a, int64_t b) { return a >= 0 && a <= b; });
  if (!fits) {
    refuse_video(fmt::format("non_local must be 4 counts of at most {}", fmt::join(counts, ", ")),
                 fmt::format("[{}]", fmt::join(non_local, ", ")));
  }
  for (int64_t stage = 0; stage < kStages; ++stage) {
    blocks_after(stage);
    block_options(stage).check();
  }
}

std::array<int64_t, VideoResnetOptions::kStages> VideoResnetOptions::bottlenecks() const {
  return {3, 4, depth == 50 ? 6 : 23, 3};
}

std::vector<int64_t> VideoResnetOptions::blocks_after(int64_t stage) const {
  std::vector<int64_t> after;
  if (!non_local_after.empty()) {
    for (const std::string& text : non_local_after) {
      const auto [at, bottleneck] = place_of(*this, text);
      if (at == stage) after.push_back(bottleneck);
    }
    std::sort(after.begin(), after.end());
    if (std::adjacent_find(after.begin(), after.end()) != after.end()) {
      refuse_video("non_local_after must name a bottleneck once", fmt::format("{}", fmt::join(non_local_after, ", ")));
    }
    return after;
  }
  const auto at = static_cast<size_t>(stage);
  return non_local_places(bottlenecks()[at], non_local[at]);
}

NonLocalOptions VideoResnetOptions::block_options(int64_t stage) const {
  NonLocalOptions options = block;
  options.channels = stage_channels(stage);
  options.dimensions = 3;
  return options;
}

VideoConvolution VideoResnetOptions::first_convolution() const {
  const int64_t t = inflation == Inflation::none ? 1 : 5;
  return {"conv1", channels, width, {t, 7, 7}, {frames == 32 ? 2 : 1, 2, 2}};
}

std::vector<VideoConvolution> VideoResnetOptions::convolutions(int64_t stage, int64_t bottleneck) const {
  const int64_t inner = stage_width(stage), outputs = stage_channels(stage);
  const int64_t inputs = bottleneck > 0 ? outputs : stage == 0 ? width : stage_channels(stage - 1);
  const int64_t step = stage > 0 && bottleneck == 0 ? 2 : 1, first = stride_in_first ? step : 1, second = step / first;
  const bool inflated = inflation != Inflation::none && inflates(stage, bottleneck);
  const int64_t t1 = inflated && inflation == Inflation::first_convolution ? 3 : 1;
  const int64_t t2 = inflated && inflation == Inflation::second_convolution ? 3 : 1;
  const std::string name = fmt::format("layer{}.{}.", stage + 1, bottleneck);
  std::vector<VideoConvolution> list = {{name + "conv1", inputs, inner, {t1, 1, 1}, {1, first, first}},
                                        {name + "conv2", inner, inner, {t2, 3, 3}, {1, second, second}},
                                        {name + "conv3", inner, outputs, {1, 1, 1}, {1, 1, 1}}};
  if (bottleneck == 0) list.push_back({name + "downsample.0", inputs, outputs, {1, 1, 1}, {1, step, step}});
  return list;
}

std::pair<MapExtents, MapExtents> VideoResnetOptions::pool1() const {
  return frames == 32 ? std::pair(MapExtents{3, 3, 3}, MapExtents{2, 2, 2})
                      : std::pair(MapExtents{1, 3, 3}, MapExtents{1, 2, 2});
}

std::pair<MapExtents, MapExtents> VideoResnetOptions::pool2() const {
  return {{frames == 32 ? 3 : 2, 1, 1}, {2, 1, 1}};
}

MapExtents VideoConvolution::padding() const {
  return {kernel[0] / 2, kernel[1] / 2, kernel[2] / 2};
}

MapExtents VideoConvolution::output_of(const MapExtents& map) const {
  return strided(map, kernel, stride, padding());
}

std::vector<int64_t> paper_blocks(int64_t count) {
  if (count == 0) return {0, 0, 0, 0};
  if (count == 1) return {0, 0, 1, 0};
  if (count == 5) return {0, 2, 3, 0};
  if (count == 10) return {0, 4, 6, 0};
  refuse_video("the paper's number of blocks must be 0, 1, 5 or 10", std::to_string(count));
}

int64_t count_video_resnet_parameters(const VideoResnetOptions& o) {
  o.check();
  const auto of_convolution = [](const VideoConvolution& c) { return sum_of(weights_of(c), 2 * c.outputs); };  // norm
  int64_t total = of_convolution(o.first_convolution());
  const auto counts = o.bottlenecks();
  for (int64_t stage = 0; stage < VideoResnetOptions::kStages; ++stage) {
    for (int64_t b = 0; b < counts[static_cast<size_t>(stage)]; ++b) {
      for (const VideoConvolution& c : o.convolutions(stage, b)) total = sum_of(total, of_convolution(c));
    }
    const int64_t blocks = std::ssize(o.blocks_after(stage));
    total = sum_of(total, product_of({blocks, count_non_local_parameters(o.block_options(stage))}));
  }
  return sum_of(total, product_of({o.stage_channels(3) + 1, o.classes}));
}

int64_t video_resnet_multiply_adds(const VideoResnetOptions& o, const MapExtents& clip) {
  o.check();
  int64_t total = 0;
  const auto convolve = [&](const VideoConvolution& c, const MapExtents& map) {
    const MapExtents output = c.output_of(map);
    total = sum_of(total, product_of({weights_of(c), output[0], output[1], output[2]}));
    return output;
  };
  const auto pool = [](const std::pair<MapExtents, MapExtents>& p, const MapExtents& map) {
    const auto& [kernel, stride] = p;
    const auto half = [](int64_t edge) { return edge == 3 ? int64_t{1} : int64_t{0}; };
    return strided(map, kernel, stride, {half(kernel[0]), half(kernel[1]), half(kernel[2])});
  };
  MapExtents map = pool(o.pool1(), convolve(o.first_convolution(), clip));
  const auto counts = o.bottlenecks();
  for (int64_t stage = 0; stage < VideoResnetOptions::kStages; ++stage) {
    const std::vector<int64_t> after = o.blocks_after(stage);
    for (int64_t b = 0; b < counts[static_cast<size_t>(stage)]; ++b) {
      const auto list = o.convolutions(stage, b);
      const MapExtents input = map;
      for (size_t i = 0; i < 3; ++i) map = convolve(list[i], map);
      if (list.size() == 4) convolve(list[3], input);
      if (std::find(after.begin(), after.end(), b) == after.end()) continue;
      total = sum_of(total, non_local_multiply_adds(o.block_options(stage), map));
    }
    if (stage == 0) map = pool(o.pool2(), map);
  }
  return sum_of(total, product_of({o.stage_channels(3), o.classes}));
}

}  // namespace loci
