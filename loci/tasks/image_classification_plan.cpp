// What a run of image classification needs, from its configuration alone.
//
// Legend: B images of a micro-batch.
#include "loci/base/check.h"
#include "loci/base/config.h"
#include "loci/tasks/image_classification.h"
#include "loci/tasks/network_size.h"

namespace loci {

void ImageClassificationPlan::fields(ConfigFields& f) {
  f.section("data", data);
  f.section("model", model);
}

ResnetOptions ImageClassificationPlan::model_for(int64_t classes) const {
  ResnetOptions options = model;
  options.classes = classes;
  options.channels = data.channels();
  return options;
}

void ImageClassificationPlan::check() const {
  check_image_size(data.folder.image);
  count_resnet_parameters(model_for(kAssumedClasses));
}

RunSize ImageClassificationPlan::size(const BatchShape& batch, const RowOptimizerOptions& rows, bool bfloat16) const {
  const ResnetOptions options = model_for(kAssumedClasses);
  const int64_t height = data.height(), width = data.width();
  const int64_t dense = count_resnet_parameters(options).first;
  const double small = bfloat16 ? 2 : 4;
  double image_bytes = resnet_kept_numbers(options, height, width) * small;

  RunSize size = network_size(dense, resnet_multiply_adds(options, height, width), batch);
  if (options.has_memory) {
    const ResnetMemoryOptions& memory = options.memory;
    const int64_t channels = options.stage_channels(memory.stage - 1), shift = memory.stage - 1;
    const double positions =
        static_cast<double>(((height - 1) >> shift) + 1) * static_cast<double>(((width - 1) >> shift) + 1);
    image_bytes += positions * memory.position_bytes(channels, small);
    add_map_memory(size, memory, channels, rows);
  }
  add_activations(size, image_bytes, batch);
  return size;
}

std::string ImageClassificationPlan::data_settings() const {
  return data.settings();
}

}  // namespace loci
