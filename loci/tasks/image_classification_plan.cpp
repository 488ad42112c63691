// What a run of image classification needs, from its configuration alone.
//
// Legend: B images of a micro-batch, n sub-keys of the halves.
#include <algorithm>

#include "loci/base/check.h"
#include "loci/base/config.h"
#include "loci/tasks/image_classification.h"

namespace loci {
namespace {

constexpr int64_t kAssumedClasses = 10, kAssumedEdge = 32;  // of CIFAR-10

// Numbers that backward keeps of an image: the outputs of convolutions and norms, and each block's sum.
double kept_numbers(const ResnetOptions& options, int64_t height, int64_t width) {
  double positions = static_cast<double>(height) * static_cast<double>(width);
  double numbers = positions * static_cast<double>(options.channels + 2 * options.width);
  const auto blocks = options.blocks();
  for (int64_t stage = 0; stage < ResnetOptions::kStages; ++stage) {
    if (stage > 0) positions /= 4;
    numbers += positions * 5 * static_cast<double>(options.stage_channels(stage) * blocks[static_cast<size_t>(stage)]);
  }
  return numbers;
}

// Bytes of one position in the memory: query, its norm, reads, sum of rows; and scores, which are dropped again.
double memory_position_bytes(const ResnetMemoryOptions& memory, int64_t channels, double small) {
  const double features = static_cast<double>(memory.heads) * static_cast<double>(memory.key_width);
  const double reads = static_cast<double>(memory.heads) * static_cast<double>(memory.top_k);
  const auto [n1, n2] = sub_keys_for(memory.rows);
  const double scores = static_cast<double>(memory.heads) * static_cast<double>(n1 + n2) * 8;
  return features * (small + 8) + reads * 16 + static_cast<double>(channels) * 16 + scores;
}

}  // namespace

void ImageClassificationData::fields(ConfigFields& f) {
  folder.fields(f);
  augment.fields(f);
  f.field("train_images", train_images, "training images, spread over the classes and held in memory; 0: all",
          {.minimum = 0, .maximum = int64_t{1} << 32});
}

void ImageClassificationPlan::fields(ConfigFields& f) {
  f.section("data", data);
  f.section("model", model);
}

ResnetOptions ImageClassificationPlan::model_for(int64_t classes) const {
  ResnetOptions options = model;
  options.classes = classes;
  options.channels = data.folder.image.color == ImageColor::grey ? 1 : 3;
  return options;
}

void ImageClassificationPlan::check() const {
  check_image_size(data.folder.image);
  count_resnet_parameters(model_for(kAssumedClasses));
}

RunSize ImageClassificationPlan::size(const BatchShape& batch, const RowOptimizerOptions& rows, bool bfloat16) const {
  const ResnetOptions options = model_for(kAssumedClasses);
  const auto& edges = data.folder.image.size;
  const int64_t height = edges.empty() ? kAssumedEdge : edges[0], width = edges.empty() ? kAssumedEdge : edges[1];
  const auto [dense, table] = count_resnet_parameters(options);
  const double small = bfloat16 ? 2 : 4;
  double image_bytes = kept_numbers(options, height, width) * small;

  RunSize size;
  size.parameters_dense = dense;
  size.parameters_table = table;
  size.units_per_step = batch.batch;
  size.multiply_adds = resnet_multiply_adds(options, height, width);
  size.memory = {{"dense parameters", 4 * dense}, {"dense gradients", 4 * dense}};
  if (options.has_memory) {
    const ResnetMemoryOptions& memory = options.memory;
    const int64_t channels = options.stage_channels(memory.stage - 1), shift = memory.stage - 1;
    const double positions =
        static_cast<double>(((height - 1) >> shift) + 1) * static_cast<double>(((width - 1) >> shift) + 1);
    image_bytes += positions * memory_position_bytes(memory, channels, small);
    size.counter_bytes =
        checked_product("config", "bytes of counters", memory.rows, static_cast<int64_t>(sizeof(RowUsage)));
    size.memory.emplace_back("tables", checked_product("config", "bytes of the table", table, 4));
    size.memory.emplace_back("row optimiser state", RowOptimizer::state_bytes(memory.rows, channels, rows, at::kFloat));
    size.memory.emplace_back("counters of rows", checked_product("config", "bytes of counters", size.counter_bytes, 2));
    if (memory.has_reinitialise && memory.reinitialise.keys == KeyRule::query) {
      size.memory.emplace_back("sample of queries", QueryReservoir::bytes(memory.heads, memory.key_width / 2));
    }
  }
  const double activations = std::min(9e18, image_bytes * static_cast<double>(batch.per_micro_batch()));
  size.memory.emplace_back("activations", static_cast<int64_t>(activations));
  return size;
}

std::string ImageClassificationPlan::data_settings() const {
  return image_settings(data.folder) + fmt::format("train_images = {}\n", data.train_images);
}

}  // namespace loci
