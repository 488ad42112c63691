#include <ATen/ops/empty.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/softmax.h>
#include <fmt/format.h>

#include <cmath>
#include <functional>
#include <memory>
#include <optional>
#include <utility>

#include "cli/output.h"
#include "cli/predictions.h"
#include "loci/base/check.h"
#include "loci/base/paths.h"
#include "loci/base/stop_signal.h"
#include "loci/data/folder_files.h"
#include "loci/tasks/attention_map.h"
#include "loci/tasks/row_map.h"

namespace loci::cli {
namespace {

constexpr double kShownScore = 0.3;  // of a detection in a line of text

// Of a batch [B, C, height, width] that begins with the `first`-th image of the folder.
using PredictBatch = std::function<std::vector<Prediction>(const at::Tensor& images, size_t first)>;

LabelledImages load_images(const ImageOptions& options, const ImageShape& wanted,
                           const std::vector<ImageSource>& sources, ProgressLine& progress) {
  ImageLoader loader(options, progress);
  LabelledImages result{loader.load(sources), std::vector<int64_t>(sources.size(), 0)};  // labels are of no use
  require_shape(result.images.shape(), wanted, sources[0].path);
  return result;
}

// What a memory reads while it lives; nothing without one.
struct KeptReads {
  explicit KeptReads(const std::shared_ptr<ProductKeyMemory>& memory) {
    if (memory) scope.emplace(*memory, last);
  }
  std::shared_ptr<LastReads> last = std::make_shared<LastReads>();
  std::optional<ObserverScope> scope;
};

// What the report draws: the images as the network got them, and the rows that each position read.
void add_pictures(std::vector<Prediction>& predictions, const std::vector<Image>& images, const LastReads& reads) {
  std::vector<nlohmann::json> maps;
  if (reads.index.defined()) maps = row_maps(reads.index, reads.weight, std::ssize(images), images.front().shape);
  for (size_t i = 0; i < images.size(); ++i) {
    nlohmann::json& picture = predictions[i].json["picture"];
    picture["image"] = pixels_json(images[i]);
    if (!maps.empty()) picture["rows"] = maps[i];
  }
}

// The memory of a network that may have one.
template <class Model>
std::shared_ptr<ProductKeyMemory> memory_of(const std::shared_ptr<Model>& model) {
  if constexpr (requires { model->memory(); }) {
    return model->memory();
  } else {
    return nullptr;
  }
}

// `loaded`: a network with what its input is and how images are read. Each prediction gets its file's name.
template <class Loaded>
std::vector<Prediction> predict_images(const PredictInputs& inputs, const Loaded& loaded, const PredictBatch& batch) {
  const std::vector<ImageSource>& sources = inputs.sources;
  const LabelledImages images = load_images(loaded.images, loaded.input.shape, sources, inputs.progress);
  const PixelInput& input = loaded.input;
  const ImageShape& shape = input.shape;
  const ImageSequence batches(images, input.scale, kPredictedAtOnce);
  std::vector<Prediction> predictions;
  for (int64_t index = 0; index < batches.batches(); ++index) {
    StopSignal::check("stopped while images were predicted");
    inputs.progress.show(fmt::format("predicting: {} of {} images", predictions.size(), sources.size()));
    const at::Tensor pixels = at::empty({kPredictedAtOnce, shape.height, shape.width, shape.channels}, at::kFloat);
    std::vector<int64_t> labels(kPredictedAtOnce);
    const int64_t count = batches.fill(index, pixels.mutable_data_ptr<float>(), labels.data());
    const at::Tensor part = pixels.narrow(0, 0, count).permute({0, 3, 1, 2});
    const KeptReads reads(inputs.pictures ? memory_of(loaded.model) : nullptr);
    std::vector<Prediction> made_of_batch = batch(part, predictions.size());
    if (inputs.pictures) add_pictures(made_of_batch, images_of(pixels_of(part, input.scale)), *reads.last);
    for (Prediction& made : made_of_batch) {
      const std::string& name = sources[predictions.size()].name;
      made.columns.insert(made.columns.begin(), printable(name));
      made.json["file"] = name;
      predictions.push_back(std::move(made));
    }
  }
  inputs.progress.finish();
  return predictions;
}

}  // namespace

std::vector<ImageSource> images_in(const std::filesystem::path& folder) {
  if (const PathKind kind = kind_of(folder); kind != PathKind::folder) {
    fail(ExitCode::input, folder.string(), "--images must be a folder",
         kind == PathKind::nothing ? "nothing there" : "a file");
  }
  std::vector<ImageSource> images;
  FolderFiles found = folder_files(folder);
  for (FolderFiles::File& file : found.files) {
    if (has_extension(file.path, image_extensions())) images.push_back({std::move(file.path), std::move(file.name)});
  }
  if (images.empty()) {
    fail(ExitCode::input, folder.string(), "the folder must hold images (.jpg, .jpeg, .png)",
         fmt::format("{} other files", found.files.size()));
  }
  return images;
}

std::vector<Prediction> predict_classes(const PredictInputs& inputs, const ImageClassificationPlan& plan) {
  const LoadedImageClassifier loaded = load_image_classifier(plan, inputs.seed(), inputs.run.checkpoint);
  return predict_images(inputs, loaded, [&](const at::Tensor& batch, size_t) {
    const KeptInputs kept(loaded.model->non_local(), inputs.pictures ? batch.size(0) : 0);
    std::vector<Prediction> found = likeliest(at::softmax(loaded.model->forward(batch), 1), loaded.input.classes);
    const std::vector<nlohmann::json> attention = kept.attention_maps();
    for (size_t i = 0; i < attention.size(); ++i) found[i].json["picture"]["attention"] = attention[i];
    return found;
  });
}

std::vector<Prediction> predict_reconstructions(const PredictInputs& inputs, const ReconstructionPlan& plan,
                                                const std::filesystem::path& out) {
  const LoadedAutoencoder loaded = load_autoencoder(plan, inputs.seed(), inputs.run.checkpoint);
  return predict_images(inputs, loaded, [&](const at::Tensor& batch, size_t first) {
    const Reconstruction made = loaded.model->forward(batch);
    const at::Tensor output = made.images.clamp(0, 1);
    const at::Tensor error = (output - pixels_of(batch, loaded.input.scale)).square().mean(at::IntArrayRef{1, 2, 3});
    const std::vector<Image> images = images_of(output);
    std::vector<nlohmann::json> codes;
    if (inputs.pictures && made.index.defined()) {
      const at::Tensor index = made.index.view({-1, 1, 1});
      codes = row_maps(index, at::ones_like(index), batch.size(0), loaded.input.shape);
    }
    std::vector<Prediction> found;
    for (size_t i = 0; i < images.size(); ++i) {
      const std::filesystem::path file =
          (out / inputs.sources[first + i].name).replace_extension(".png").lexically_normal();
      make_folders(file.parent_path());
      write_png(file, images[i]);
      const double psnr = -10 * std::log10(error[static_cast<int64_t>(i)].item<double>());
      found.push_back({{printable(file.string()), fmt::format("{:5.2f} dB", psnr)},
                       {{"reconstruction", file.string()}, {"psnr", psnr}}});
      if (!inputs.pictures) continue;
      found.back().json["picture"]["reconstruction"] = pixels_json(images[i]);
      if (!codes.empty()) found.back().json["picture"]["rows"] = codes[i];
    }
    return found;
  });
}

std::vector<Prediction> predict_poses(const PredictInputs& inputs, const RelocalisationPlan& plan) {
  const LoadedPosenet loaded = load_posenet(plan, inputs.seed(), inputs.run.checkpoint);
  return predict_images(inputs, loaded, [&](const at::Tensor& batch, size_t) {
    const PosePrediction output = loaded.model->forward(batch);
    std::vector<Prediction> found;
    for (const Pose& pose : loaded.model->loss().poses(output.position, output.rotation)) {
      const auto& [x, y, z] = pose.position;
      const Quaternion& q = pose.rotation;
      found.push_back({{fmt::format("{:8.3f} {:8.3f} {:8.3f} m", x, y, z),
                        fmt::format("{:7.4f} {:7.4f} {:7.4f} {:7.4f}", q.w, q.x, q.y, q.z)},
                       {{"position", pose.position}, {"rotation", {q.w, q.x, q.y, q.z}}}});
    }
    return found;
  });
}

std::vector<Prediction> predict_detections(const PredictInputs& inputs, const ShapesKeypointsPlan& plan) {
  const LoadedCenterDetector loaded = load_center_detector(plan, inputs.seed(), inputs.run.checkpoint);
  return predict_images(inputs, loaded, [&](const at::Tensor& batch, size_t) {
    std::vector<Prediction> found;
    for (const std::vector<Detection>& detections : center_detections(loaded.model->forward(batch))) {
      std::string text;
      nlohmann::json list = nlohmann::json::array();
      for (const Detection& detection : detections) {
        list.push_back(detection_json(detection));
        if (detection.score < kShownScore) continue;
        const auto& [x0, y0, x1, y1] = detection.instance.box;
        text += fmt::format("{}{} {:.1f} % at {:.0f} {:.0f} {:.0f} {:.0f}", text.empty() ? "" : ", ",
                            shape_name(detection.instance.label), 100 * detection.score, x0, y0, x1, y1);
      }
      found.push_back({{text.empty() ? "nothing" : text}, {{"detections", list}}});
    }
    return found;
  });
}

}  // namespace loci::cli
