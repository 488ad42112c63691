// What trained networks say of images, clips and texts; `loci predict` prints it. All of it throws Error (input) for
// files that do not fit the run.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "cli/run_argument.h"
#include "loci/base/progress.h"
#include "loci/data/image/image_folder.h"
#include "loci/tasks/image_classification.h"
#include "loci/tasks/reconstruction.h"
#include "loci/tasks/relocalisation.h"
#include "loci/tasks/shapes_keypoints.h"
#include "loci/tasks/text_classification.h"
#include "loci/tasks/video_classification.h"

namespace loci::cli {

constexpr int64_t kPredictedAtOnce = 64;  // images or texts

// What is said of an image, a clip or a text: columns for people, an object for programs.
struct Prediction {
  std::vector<std::string> columns;
  nlohmann::json json;
};

// What a kind of network needs besides itself.
struct PredictInputs {
  const RunArgument& run;
  const std::vector<ImageSource>& sources;
  ProgressLine& progress;
  bool pictures;  // the JSON has what the report draws
  uint64_t seed() const { return static_cast<uint64_t>(run.config.seed); }
};

// The images of a folder and its subfolders, at least one.
std::vector<ImageSource> images_in(const std::filesystem::path& folder);

std::vector<Prediction> predict_classes(const PredictInputs& inputs, const ImageClassificationPlan& plan);
// Each image's reconstruction as a PNG of the same name under `out`.
std::vector<Prediction> predict_reconstructions(const PredictInputs& inputs, const ReconstructionPlan& plan,
                                                const std::filesystem::path& out);
std::vector<Prediction> predict_poses(const PredictInputs& inputs, const RelocalisationPlan& plan);
// Detections of a score of at least 0.3 for people; all for programs.
std::vector<Prediction> predict_detections(const PredictInputs& inputs, const ShapesKeypointsPlan& plan);

// Of the clips in a folder, each a folder of frames.
std::vector<Prediction> predict_clips(const RunArgument& run, const VideoClassificationPlan& plan,
                                      const std::filesystem::path& folder, ProgressLine& progress);
std::vector<Prediction> predict_texts(const RunArgument& run, const TextClassificationPlan& plan,
                                      const std::filesystem::path& file, ProgressLine& progress);

// The likeliest class of each row of probabilities [B, classes].
std::vector<Prediction> likeliest(const at::Tensor& probabilities, const std::vector<std::string>& classes);

// Throws for images or frames of another size than the run's.
void require_shape(const ImageShape& got, const ImageShape& wanted, const std::filesystem::path& path);

}  // namespace loci::cli
