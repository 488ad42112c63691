// What tasks on folders of labelled images share: the data, the network's input, batches.
//
// Legend: B images of a batch, C channels.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "loci/data/image/augment.h"
#include "loci/data/image/image_batches.h"
#include "loci/data/image/image_folder.h"
#include "loci/train/read_ahead.h"
#include "loci/train/task.h"

namespace loci {

inline constexpr int64_t kAssumedClasses = 10;  // that sizes are estimated with

// [data]
struct ImageTaskData {
  ImageFolderOptions folder;
  AugmentOptions augment;
  int64_t train_images = 0;  // spread over the classes; 0: all
  void fields(ConfigFields& f);

  int64_t channels() const { return folder.image.color == ImageColor::grey ? 1 : 3; }
  // Height and width that sizes are estimated with: without data.size those of CIFAR-10.
  int64_t height() const { return folder.image.size.empty() ? 32 : folder.image.size[0]; }
  int64_t width() const { return folder.image.size.empty() ? 32 : folder.image.size[1]; }
  // Those that decide what is read, as text.
  std::string settings() const;
};

// What a network's input is. A run's checkpoints keep it, so that other images are read as those that it was trained
// on.
struct PixelInput {
  static constexpr const char* kFile = "images.json";
  ImageShape shape;
  ChannelScale scale;

  std::string save() const;  // JSON
  // Throws Error (input) for what is no such file.
  static PixelInput load(const std::filesystem::path& path);
};
struct ImageInput : PixelInput {
  std::vector<std::string> classes;  // by label, printable

  std::string save() const;
  static ImageInput load(const std::filesystem::path& path);
};

struct OpenedImages : OpenedData {
  ImageClasses data;
  ImageInput input;

  nlohmann::json facts() const;
};

std::shared_ptr<const OpenedImages> open_images(const ImageTaskData& options, const TaskInputs& inputs);
// That of the checkpoint, if there is one. Throws Error (input) for data of other classes or of another shape.
ImageInput input_of_run(const ImageInput& opened, const TaskInputs& inputs);

// A network's input [B, C, height, width] as values of 0 .. 1.
at::Tensor pixels_of(const at::Tensor& images, const ChannelScale& scale);
// Values [B, C, height, width], cut to 0 .. 1, as bytes of 0 .. 255.
std::vector<Image> images_of(const at::Tensor& pixels);

struct ImageBatch {
  at::Tensor images;  // [B, C, height, width], channels last
  at::Tensor labels;  // [B] int64
};

// Training batches are made one ahead by a thread, test batches when they are asked for.
class ImageFeed {
 public:
  static constexpr int64_t kTestImages = 250;  // of a test batch

  ImageFeed(std::shared_ptr<const OpenedImages> opened, const ImageInput& input, const AugmentOptions& augment,
            const BatchShape& batch, uint64_t seed);

  // The last batch is kept, for losses of weights that are only tried.
  ImageBatch training(int64_t step, int64_t micro);
  int64_t test_batches() const { return test_.batches(); }
  ImageBatch test(int64_t index) const;

 private:
  ImageBatch empty(int64_t images) const;
  ImageBatch training_at(int64_t position) const;  // position = step * accumulation + micro

  std::shared_ptr<const OpenedImages> opened_;  // sampler and sequence refer to it
  ImageShape shape_;
  BatchShape batch_;
  ImageSampler sampler_;
  ImageSequence test_;
  ReadAhead<ImageBatch> ahead_;
  ImageBatch last_;
  int64_t last_position_ = -1;
};

}  // namespace loci
