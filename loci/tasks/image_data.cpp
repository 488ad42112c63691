// Legend: B images of a batch, C channels.
#include "loci/tasks/image_data.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/tensor.h>

#include <algorithm>
#include <utility>

#include "loci/base/check.h"
#include "loci/base/durable_file.h"

namespace loci {
namespace {

// As many as the recipe asks for, evenly spread over the folder's, which are in the order of their classes.
LabelledImages spread_images(const LabelledImages& all, int64_t wanted) {
  const int64_t count = all.images.size();
  if (wanted > count) {
    fail(ExitCode::usage, "data.train_images", fmt::format("it must be at most the folder's {}", count),
         fmt::to_string(wanted));
  }
  const ImageShape shape = all.images.shape();
  std::vector<uint8_t> pixels(static_cast<size_t>(wanted * shape.bytes()));
  LabelledImages result;
  for (int64_t i = 0; i < wanted; ++i) {
    const int64_t item = i * count / wanted;
    all.images.read(item, pixels.data() + i * shape.bytes());
    result.labels.push_back(all.labels[static_cast<size_t>(item)]);
  }
  result.images = ImageSet(shape, std::move(pixels));
  return result;
}

nlohmann::json pixel_json(const PixelInput& input) {
  return {{"height", input.shape.height},
          {"width", input.shape.width},
          {"channels", input.shape.channels},
          {"mean", input.scale.mean},
          {"deviation", input.scale.deviation}};
}

bool is_input(const PixelInput& input) {
  constexpr int64_t most = 1 << 20;
  const ImageShape& s = input.shape;
  return s.height >= 1 && s.height <= most && s.width >= 1 && s.width <= most && (s.channels == 1 || s.channels == 3) &&
         std::ssize(input.scale.mean) == s.channels && std::ssize(input.scale.deviation) == s.channels &&
         std::ranges::all_of(input.scale.deviation, [](double value) { return value > 0; });
}

// `more` reads what an input has in addition; false: it cannot be.
template <class Input, class More>
Input load_pixel_input(const std::filesystem::path& path, const More& more) {
  std::string got = "others";
  try {
    Input input;
    const nlohmann::json json = nlohmann::json::parse(read_text_file(path));
    json.at("height").get_to(input.shape.height);
    json.at("width").get_to(input.shape.width);
    json.at("channels").get_to(input.shape.channels);
    json.at("mean").get_to(input.scale.mean);
    json.at("deviation").get_to(input.scale.deviation);
    if (more(input, json) && is_input(input)) return input;
  } catch (const nlohmann::json::exception& error) {
    got = error.what();
  }
  fail(ExitCode::input, path.string(), "the file must say what a run's images are: classes, size, scale", got);
}

}  // namespace

void ImageTaskData::fields(ConfigFields& f) {
  folder.fields(f);
  augment.fields(f);
  f.field("train_images", train_images, "training images, spread over the classes and held in memory; 0: all",
          {.minimum = 0, .maximum = int64_t{1} << 32});
}

std::string ImageTaskData::settings() const {
  return image_settings(folder) + fmt::format("train_images = {}\n", train_images);
}

std::shared_ptr<const OpenedImages> open_images(const ImageTaskData& options, const TaskInputs& inputs) {
  if (auto opened = std::dynamic_pointer_cast<const OpenedImages>(inputs.opened)) return opened;
  auto opened = std::make_shared<OpenedImages>();
  opened->data = load_image_folder(inputs.data, options.folder, *inputs.progress);
  for (const std::string& notice : opened->data.notices) inputs.progress->finish(notice);
  if (options.train_images > 0) {
    opened->data.train = spread_images(opened->data.train, options.train_images);
    opened->data.inventory.settings += fmt::format("train_images = {}\n", options.train_images);
  }
  for (const std::string& name : opened->data.classes) opened->input.classes.push_back(printable(name));
  opened->input.shape = opened->data.train.images.shape();
  opened->input.scale = channel_scale(opened->data.train.images);
  return opened;
}

ImageInput input_of_run(const ImageInput& opened, const TaskInputs& inputs) {
  if (inputs.checkpoint.empty()) return opened;
  ImageInput kept = ImageInput::load(inputs.checkpoint / ImageInput::kFile);
  if (opened.classes != kept.classes) {
    const auto other = std::ranges::find_if(
        opened.classes, [&](const auto& name) { return std::ranges::count(kept.classes, name) == 0; });
    fail(ExitCode::input, inputs.data.string(),
         fmt::format("the classes must be the {} of the run", kept.classes.size()),
         other != opened.classes.end() ? *other : fmt::format("{} of them", opened.classes.size()));
  }
  if (opened.shape != kept.shape) {
    const auto text = [](const ImageShape& s) { return fmt::format("{} x {} x {}", s.height, s.width, s.channels); };
    fail(ExitCode::input, inputs.data.string(), fmt::format("images must be {} as the run's", text(kept.shape)),
         text(opened.shape));
  }
  return kept;
}

std::string PixelInput::save() const {
  return pixel_json(*this).dump() + "\n";
}

PixelInput PixelInput::load(const std::filesystem::path& path) {
  return load_pixel_input<PixelInput>(path, [](PixelInput&, const nlohmann::json&) { return true; });
}

std::string ImageInput::save() const {
  nlohmann::json json = pixel_json(*this);
  json["classes"] = classes;
  return json.dump() + "\n";
}

ImageInput ImageInput::load(const std::filesystem::path& path) {
  return load_pixel_input<ImageInput>(path, [](ImageInput& input, const nlohmann::json& json) {
    json.at("classes").get_to(input.classes);
    return !input.classes.empty();
  });
}

at::Tensor pixels_of(const at::Tensor& images, const ChannelScale& scale) {
  const auto of_channels = [](const std::vector<double>& values) {
    return at::tensor(values).to(at::kFloat).view({-1, 1, 1});
  };
  return images * of_channels(scale.deviation) + of_channels(scale.mean);
}

std::vector<Image> images_of(const at::Tensor& pixels) {
  const at::Tensor bytes =
      (pixels.detach().to(at::kFloat).clamp(0, 1) * 255).round().to(at::kByte).permute({0, 2, 3, 1}).contiguous();
  const ImageShape shape = {bytes.size(1), bytes.size(2), bytes.size(3)};
  std::vector<Image> images;
  for (int64_t i = 0; i < bytes.size(0); ++i) {
    const uint8_t* begin = bytes.const_data_ptr<uint8_t>() + i * shape.bytes();
    images.push_back({shape, {begin, begin + shape.bytes()}});
  }
  return images;
}

nlohmann::json OpenedImages::facts() const {
  return {{"training images", data.train.images.size()},
          {"test images", data.test.images.size()},
          {"classes", input.classes.size()},
          {"height", input.shape.height},
          {"width", input.shape.width},
          {"channels", input.shape.channels}};
}

ImageFeed::ImageFeed(std::shared_ptr<const OpenedImages> opened, const ImageInput& input, const AugmentOptions& augment,
                     const BatchShape& batch, uint64_t seed)
    : opened_(std::move(opened)),
      shape_(input.shape),
      batch_(batch),
      sampler_(opened_->data.train, input.scale, augment, batch.per_micro_batch(), seed, batch.accumulation),
      test_(opened_->data.test, input.scale, kTestImages),
      ahead_([this](int64_t position) { return training_at(position); }) {}

ImageBatch ImageFeed::empty(int64_t images) const {
  const at::Tensor pixels = at::empty({images, shape_.height, shape_.width, shape_.channels}, at::kFloat);
  return {pixels.permute({0, 3, 1, 2}), at::empty({images}, at::kLong)};
}

ImageBatch ImageFeed::training(int64_t step, int64_t micro) {
  const int64_t position = step * batch_.accumulation + micro;
  if (position != last_position_) last_ = ahead_.take(position);
  last_position_ = position;
  return last_;
}

ImageBatch ImageFeed::training_at(int64_t position) const {
  ImageBatch batch = empty(batch_.per_micro_batch());
  sampler_.fill(position / batch_.accumulation, position % batch_.accumulation, batch.images.mutable_data_ptr<float>(),
                batch.labels.mutable_data_ptr<int64_t>());
  return batch;
}

ImageBatch ImageFeed::test(int64_t index) const {
  const ImageBatch batch = empty(kTestImages);
  const int64_t count =
      test_.fill(index, batch.images.mutable_data_ptr<float>(), batch.labels.mutable_data_ptr<int64_t>());
  return {batch.images.narrow(0, 0, count), batch.labels.narrow(0, 0, count)};
}

}  // namespace loci
