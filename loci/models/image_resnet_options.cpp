#include "loci/models/image_resnet_options.h"

#include <fmt/format.h>

#include "loci/base/check.h"

namespace loci {
namespace {

[[noreturn]] void refuse_image_resnet(const std::string& expected, const std::string& got) {
  fail(ExitCode::usage, "model", expected, got);
}

int64_t image_product(int64_t a, int64_t b) {
  return checked_product("model", "its size", a, b);
}

int64_t image_sum(int64_t a, int64_t b) {
  return checked_sum("model", "its size", a, b);
}

// A map of "same" padding after a stride of 2.
int64_t halved(int64_t size) {
  return (size + 1) / 2;
}

// Of a stage: numbers of `of` summed over its convolutions, projections too.
template <class Of>
int64_t stage_sum(const ImageResnetOptions& o, int64_t stage, const Of& of) {
  int64_t sum = 0;
  const int64_t blocks = o.blocks()[static_cast<size_t>(stage)];
  for (int64_t block = 0; block < blocks; ++block) {
    for (const ImageConvolution& c : o.convolutions(stage, block)) sum = image_sum(sum, of(c));
    if (o.has_projection(stage, block)) sum = image_sum(sum, of(o.projection(stage)));
  }
  return sum;
}

}  // namespace

void ImageNonLocalOptions::fields(ConfigFields& f) {
  f.field("blocks", blocks, "non-local blocks of each stage", {.minimum = 0, .maximum = 300});
  NonLocalOptions::fields(f);
}

void ImageResnetOptions::fields(ConfigFields& f) {
  f.field("depth", depth, "18, 34 (blocks of two convolutions), 50 or 101 (of three)", {.minimum = 18, .maximum = 101});
  f.field("width", width, "channels of the first convolution", {.minimum = 1, .maximum = 1024});
  f.field("extra_blocks", extra_blocks, "residual blocks of each stage in addition", {.minimum = 0, .maximum = 300});
  f.optional_section("non_local", has_non_local, non_local);
}

std::array<int64_t, ImageResnetOptions::kStages> ImageResnetOptions::own_blocks() const {
  if (depth == 18) return {2, 2, 2, 2};
  return {3, 4, depth == 101 ? 23 : 6, 3};
}

std::array<int64_t, ImageResnetOptions::kStages> ImageResnetOptions::blocks() const {
  auto result = own_blocks();
  for (size_t stage = 0; stage < result.size(); ++stage) result[stage] += extra_blocks[stage];
  return result;
}

std::vector<ImageConvolution> ImageResnetOptions::convolutions(int64_t stage, int64_t block) const {
  const std::string name = fmt::format("layer{}.{}.conv", stage + 1, block);
  const int64_t inner = width << stage, outputs = stage_channels(stage);
  const int64_t before = stage == 0 ? width : stage_channels(stage - 1), inputs = block == 0 ? before : outputs;
  const int64_t stride = stage > 0 && block == 0 ? 2 : 1;
  if (!has_bottlenecks()) return {{name + "1", inputs, inner, 3, stride}, {name + "2", inner, inner, 3, 1}};
  return {{name + "1", inputs, inner, 1, 1}, {name + "2", inner, inner, 3, stride}, {name + "3", inner, outputs, 1, 1}};
}

bool ImageResnetOptions::has_projection(int64_t stage, int64_t block) const {
  return block == 0 && (stage > 0 || has_bottlenecks());
}

ImageConvolution ImageResnetOptions::projection(int64_t stage) const {
  const int64_t inputs = stage == 0 ? width : stage_channels(stage - 1);
  return {fmt::format("layer{}.0.downsample.0", stage + 1), inputs, stage_channels(stage), 1, stage == 0 ? 1 : 2};
}

std::vector<int64_t> ImageResnetOptions::non_local_after(int64_t stage) const {
  if (!has_non_local) return {};
  const auto at = static_cast<size_t>(stage);
  return non_local_places(blocks()[at], non_local.blocks[at]);
}

NonLocalOptions ImageResnetOptions::non_local_options(int64_t stage) const {
  NonLocalOptions options = non_local;
  options.channels = stage_channels(stage);
  options.dimensions = 2;
  return options;
}

void ImageResnetOptions::check() const {
  if (depth != 18 && depth != 34 && depth != 50 && depth != 101) {
    refuse_image_resnet("depth must be 18, 34, 50 or 101", std::to_string(depth));
  }
  if (width < 1 || width > 1024) refuse_image_resnet("width must be within 1 .. 1024", std::to_string(width));
  if (classes < 0) refuse_image_resnet("classes must be at least 0", std::to_string(classes));
  if (channels < 1) refuse_image_resnet("channels must be at least 1", std::to_string(channels));
  if (std::ssize(extra_blocks) != kStages) {
    refuse_image_resnet(fmt::format("extra_blocks must be {} numbers", kStages), std::to_string(extra_blocks.size()));
  }
  if (!has_non_local) return;
  if (std::ssize(non_local.blocks) != kStages) {
    refuse_image_resnet(fmt::format("non_local.blocks must be {} numbers", kStages),
                        std::to_string(non_local.blocks.size()));
  }
  for (size_t stage = 0; stage < non_local.blocks.size(); ++stage) {
    const int64_t given = non_local.blocks[stage], most = blocks()[stage];
    if (given < 0 || given > most) {
      refuse_image_resnet(fmt::format("non_local.blocks of stage {} must be within 0 .. {}", stage + 1, most),
                          std::to_string(given));
    }
    non_local_options(static_cast<int64_t>(stage)).check();
  }
}

MapExtents image_resnet_map(int64_t stage, int64_t height, int64_t width) {
  for (int64_t i = 0; i < stage + 2; ++i) {
    height = halved(height);
    width = halved(width);
  }
  return {1, height, width};
}

int64_t count_image_resnet_parameters(const ImageResnetOptions& o) {
  o.check();
  const auto with_norm = [](const ImageConvolution& c) { return image_sum(c.weights(), 2 * c.outputs); };
  int64_t sum = with_norm(o.first_convolution());
  for (int64_t stage = 0; stage < ImageResnetOptions::kStages; ++stage) {
    sum = image_sum(sum, stage_sum(o, stage, with_norm));
    const int64_t relating = std::ssize(o.non_local_after(stage));
    if (relating == 0) continue;
    sum = image_sum(sum, image_product(relating, count_non_local_parameters(o.non_local_options(stage))));
  }
  return image_sum(sum, image_product(o.stage_channels(3) + 1, o.classes));
}

int64_t image_resnet_multiply_adds(const ImageResnetOptions& o, int64_t height, int64_t width) {
  o.check();
  const int64_t first = image_product(halved(height), halved(width));
  int64_t sum = image_product(first, o.first_convolution().weights());
  for (int64_t stage = 0; stage < ImageResnetOptions::kStages; ++stage) {
    const MapExtents map = image_resnet_map(stage, height, width);
    const int64_t positions = image_product(map[1], map[2]);
    // The first 1x1 of a stage's first bottleneck comes before the stride.
    const int64_t early = o.has_bottlenecks() && stage > 0 ? o.convolutions(stage, 0)[0].weights() : 0;
    const int64_t late = stage_sum(o, stage, [](const ImageConvolution& c) { return c.weights(); }) - early;
    sum = image_sum(sum, image_product(positions, late));
    if (early > 0) {
      const MapExtents before = image_resnet_map(stage - 1, height, width);
      sum = image_sum(sum, image_product(image_product(before[1], before[2]), early));
    }
    const int64_t relating = std::ssize(o.non_local_after(stage));
    if (relating == 0) continue;
    sum = image_sum(sum, image_product(relating, non_local_multiply_adds(o.non_local_options(stage), map)));
  }
  return image_sum(sum, image_product(o.stage_channels(3), o.classes));
}

double image_resnet_kept_numbers(const ImageResnetOptions& o, int64_t height, int64_t width) {
  const auto first = static_cast<double>(halved(height)) * static_cast<double>(halved(width));
  // The image's four pixels, conv1, its norm, and a quarter of pooled numbers with their indices.
  double numbers = first * (4 * static_cast<double>(o.channels) + 3 * static_cast<double>(o.width));
  for (int64_t stage = 0; stage < ImageResnetOptions::kStages; ++stage) {
    const MapExtents map = image_resnet_map(stage, height, width);
    const auto positions = static_cast<double>(map[1]) * static_cast<double>(map[2]);
    // An output and its norm of each convolution; sums of blocks.
    const auto outputs = static_cast<double>(stage_sum(o, stage, [](const ImageConvolution& c) { return c.outputs; }));
    numbers += 2.5 * positions * outputs;
    const NonLocalOptions block = o.non_local_options(stage);
    const auto relating = static_cast<double>(o.non_local_after(stage).size());
    // Embeddings, y, and the map before and after the norm; kept weights are no more than the embeddings.
    numbers += positions * relating * static_cast<double>(8 * block.inner_width() + 3 * block.channels);
  }
  return numbers;
}

}  // namespace loci
