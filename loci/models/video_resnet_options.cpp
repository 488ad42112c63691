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
  refuse_video(fmt::format("non_local.after must be bottlenecks from res2.0 to res5.{}", counts[3] - 1), text);
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

// The network's convolutions with the maps they make, and its non-local blocks with theirs, for a clip.
template <class OfConvolution, class OfBlock>
void walk_video(const VideoResnetOptions& o, const MapExtents& clip, const OfConvolution& of_convolution,
                const OfBlock& of_block) {
  o.check();
  // What the pools over time leave of fewer frames is nothing.
  if (o.time_halvings > 0 && clip[0] < 2)
    refuse_video("frames must be at least 2 to be halved", std::to_string(clip[0]));
  const auto convolve = [&](const VideoConvolution& c, const MapExtents& map) {
    const MapExtents output = c.output_of(map);
    of_convolution(c, output);
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
      if (std::find(after.begin(), after.end(), b) != after.end()) of_block(o.block_options(stage), map);
    }
    if (stage == 0) map = pool(o.pool2(), map);
  }
}

}  // namespace

void VideoNonLocalOptions::fields(ConfigFields& f) {
  f.field("blocks", blocks, "non-local blocks of each stage, res2 first: one stands before the last bottleneck",
          {.minimum = 0, .maximum = 300});
  f.field("after", after, "bottlenecks that a block follows, such as \"res4.0\", in the place of `blocks`");
  NonLocalOptions::fields(f);
}

void VideoResnetOptions::fields(ConfigFields& f) {
  f.field("bottlenecks", bottleneck_counts, "bottlenecks of each stage, res2 first; empty: those of `depth`",
          {.minimum = 1, .maximum = 300});
  f.when(bottleneck_counts.empty(), "model.bottlenecks is empty",
         [&] { f.field("depth", depth, "layers: 50 or 101", {.minimum = 50, .maximum = 101}); });
  f.field("width", width, "channels of the first convolution; those of the stages are 4, 8, 16 and 32 times as many",
          {.minimum = 1, .maximum = 4096});
  f.field("first_kernel", first_kernel, "height and width of the first convolution's kernel, odd",
          {.minimum = 1, .maximum = 31});
  f.field("time_halvings", time_halvings,
          "how often the number of frames is halved: 3 by conv1, pool1 and pool2, 1 by pool2 alone, 0 never",
          {.minimum = 0, .maximum = 3});
  f.choice<Inflation>(
      "inflation", inflation,
      "kernels over frames: none (C2D), in the first (3x1x1) or second (3x3x3) convolution (I3D)",
      {{"none", Inflation::none}, {"first", Inflation::first_convolution}, {"second", Inflation::second_convolution}});
  f.field("stride_in_first", stride_in_first, "a stage's stride in its first 1x1 convolution instead of its 3x3");
  f.field("dropout", dropout, "share of the last mean that training drops", {.minimum = 0, .maximum = 0.99});
  f.optional_section("non_local", has_non_local, non_local);
}

void VideoResnetOptions::check() const {
  const auto need = [](bool holds, const char* expected, int64_t got) {
    if (!holds) refuse_video(expected, std::to_string(got));
  };
  if (!bottleneck_counts.empty() && (std::ssize(bottleneck_counts) != kStages ||
                                     std::ranges::any_of(bottleneck_counts, [](int64_t n) { return n < 1; }))) {
    refuse_video("bottlenecks must be 4 numbers of at least 1",
                 fmt::format("[{}]", fmt::join(bottleneck_counts, ", ")));
  }
  need(!bottleneck_counts.empty() || depth == 50 || depth == 101, "depth must be 50 or 101", depth);
  need(time_halvings == 0 || time_halvings == 1 || time_halvings == 3, "time_halvings must be 0, 1 or 3",
       time_halvings);
  need(first_kernel >= 1 && first_kernel % 2 == 1, "first_kernel must be odd", first_kernel);
  need(classes >= 1, "classes must be at least 1", classes);
  need(channels >= 1, "channels must be at least 1", channels);
  need(width >= 1 && width <= 4096, "width must be within 1 .. 4096", width);
  if (!(dropout >= 0 && dropout < 1)) refuse_video("dropout must be at least 0 and below 1", fmt::to_string(dropout));
  if (!has_non_local) return;
  const auto counts = bottlenecks();
  const bool fits = std::ssize(non_local.blocks) == kStages &&
                    std::equal(non_local.blocks.begin(), non_local.blocks.end(), counts.begin(),
                               [](int64_t a, int64_t b) { return a >= 0 && a <= b; });
  if (!fits) {
    refuse_video(fmt::format("non_local.blocks must be 4 counts of at most {}", fmt::join(counts, ", ")),
                 fmt::format("[{}]", fmt::join(non_local.blocks, ", ")));
  }
  for (int64_t stage = 0; stage < kStages; ++stage) {
    blocks_after(stage);
    block_options(stage).check();
  }
}

std::array<int64_t, VideoResnetOptions::kStages> VideoResnetOptions::bottlenecks() const {
  std::array<int64_t, kStages> counts = {3, 4, depth == 50 ? 6 : 23, 3};
  if (!bottleneck_counts.empty()) std::copy_n(bottleneck_counts.begin(), kStages, counts.begin());
  return counts;
}

std::vector<int64_t> VideoResnetOptions::blocks_after(int64_t stage) const {
  std::vector<int64_t> after;
  if (!has_non_local) return after;
  if (!non_local.after.empty()) {
    for (const std::string& text : non_local.after) {
      const auto [at, bottleneck] = place_of(*this, text);
      if (at == stage) after.push_back(bottleneck);
    }
    std::sort(after.begin(), after.end());
    if (std::adjacent_find(after.begin(), after.end()) != after.end()) {
      refuse_video("non_local.after must name a bottleneck once", fmt::format("{}", fmt::join(non_local.after, ", ")));
    }
    return after;
  }
  const auto at = static_cast<size_t>(stage);
  return non_local_places(bottlenecks()[at], non_local.blocks[at]);
}

NonLocalOptions VideoResnetOptions::block_options(int64_t stage) const {
  NonLocalOptions options = non_local;
  options.channels = stage_channels(stage);
  options.dimensions = 3;
  return options;
}

VideoConvolution VideoResnetOptions::first_convolution() const {
  const int64_t t = inflation == Inflation::none ? 1 : 5;
  return {"conv1", channels, width, {t, first_kernel, first_kernel}, {time_halvings == 3 ? 2 : 1, 2, 2}};
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
  return time_halvings == 3 ? std::pair(MapExtents{3, 3, 3}, MapExtents{2, 2, 2})
                            : std::pair(MapExtents{1, 3, 3}, MapExtents{1, 2, 2});
}

std::pair<MapExtents, MapExtents> VideoResnetOptions::pool2() const {
  if (time_halvings == 0) return {{1, 1, 1}, {1, 1, 1}};
  return {{time_halvings == 3 ? 3 : 2, 1, 1}, {2, 1, 1}};
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
  int64_t total = product_of({o.stage_channels(3), o.classes});
  walk_video(
      o, clip,
      [&](const VideoConvolution& c, const MapExtents& map) {
        total = sum_of(total, product_of({weights_of(c), map[0], map[1], map[2]}));
      },
      [&](const NonLocalOptions& block, const MapExtents& map) {
        total = sum_of(total, non_local_multiply_adds(block, map));
      });
  return total;
}

double video_resnet_kept_numbers(const VideoResnetOptions& o, const MapExtents& clip) {
  const auto positions = [](const MapExtents& map) {
    return static_cast<double>(map[0]) * static_cast<double>(map[1]) * static_cast<double>(map[2]);
  };
  double numbers = positions(clip) * static_cast<double>(o.channels);
  walk_video(
      o, clip,
      // What goes into the norm and what comes out of it.
      [&](const VideoConvolution& c, const MapExtents& map) {
        numbers += 2 * positions(map) * static_cast<double>(c.outputs);
      },
      // Embeddings, y, and the map before and after the norm; kept weights are no more than the embeddings.
      [&](const NonLocalOptions& block, const MapExtents& map) {
        numbers += positions(map) * static_cast<double>(8 * block.inner_width() + 2 * block.channels);
      });
  return numbers;
}

}  // namespace loci
