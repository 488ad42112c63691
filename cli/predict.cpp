// loci predict: the classes that a trained network gives to images.
#include <ATen/ops/empty.h>
#include <ATen/ops/softmax.h>
#include <c10/core/InferenceMode.h>
#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "cli/output.h"
#include "cli/run_argument.h"
#include "cli/verbs.h"
#include "loci/base/check.h"
#include "loci/base/paths.h"
#include "loci/base/stop_signal.h"
#include "loci/data/folder_files.h"
#include "loci/tasks/image_classification.h"
#include "loci/train/experiment.h"
#include "loci/train/memory_check.h"
#include "loci/train/precision.h"

namespace loci::cli {
namespace {

constexpr int64_t kPredictedAtOnce = 64;  // images

struct PredictArguments {
  std::string run;
  std::string images;
  bool json = false;
  bool quiet = false;
};

struct Prediction {
  std::string file;  // relative to the folder
  std::string label;
  double probability = 0;
};

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

LabelledImages load_images(const LoadedImageClassifier& loaded, const std::vector<ImageSource>& sources,
                           ProgressLine& progress) {
  ImageLoader loader(loaded.images, progress);
  LabelledImages result{loader.load(sources), std::vector<int64_t>(sources.size(), 0)};  // labels are of no use
  const ImageShape &wanted = loaded.input.shape, &got = result.images.shape();
  if (got == wanted) return result;
  fail(ExitCode::input, sources[0].path.string(),
       fmt::format("images must be {} x {} as those of the run", wanted.height, wanted.width),
       fmt::format("{} x {}", got.height, got.width));
}

std::vector<Prediction> predict(const PredictArguments& arguments) {
  const RunArgument run = find_run(arguments.run);
  require_verb(run, "predict");
  const std::vector<ImageSource> sources = images_in(arguments.images);
  require_memory("predict", memory_of_parameters(run.config.size()));
  use_threads(run.config.train.threads);
  ProgressLine progress(arguments.quiet);
  const LoadedImageClassifier loaded = load_image_classifier(run.config, run.checkpoint);
  const LabelledImages images = load_images(loaded, sources, progress);
  const ImageShape& shape = loaded.input.shape;
  const ImageSequence batches(images, loaded.input.scale, kPredictedAtOnce);
  const c10::InferenceMode no_gradient;
  const PrecisionGuard precision(wants_bfloat16(run.config.train.precision));
  std::vector<Prediction> predictions;
  for (int64_t index = 0; index < batches.batches(); ++index) {
    StopSignal::check("stopped while images were classified");
    progress.show(fmt::format("predicting: {} of {} images", predictions.size(), sources.size()));
    const at::Tensor pixels = at::empty({kPredictedAtOnce, shape.height, shape.width, shape.channels}, at::kFloat);
    std::vector<int64_t> labels(kPredictedAtOnce);
    const int64_t count = batches.fill(index, pixels.mutable_data_ptr<float>(), labels.data());
    const at::Tensor logits = loaded.model->forward(pixels.narrow(0, 0, count).permute({0, 3, 1, 2}));
    const auto [probability, label] = at::softmax(logits, 1).max(1);
    for (int64_t i = 0; i < count; ++i) {
      predictions.push_back({sources[predictions.size()].name,
                             loaded.input.classes[static_cast<size_t>(label[i].item<int64_t>())],
                             probability[i].item<double>()});
    }
  }
  progress.finish();
  return predictions;
}

void print_predictions(const PredictArguments& arguments) {
  const std::vector<Prediction> predictions = predict(arguments);
  if (arguments.json) {
    nlohmann::json images = nlohmann::json::array();
    for (const Prediction& p : predictions) {
      images.push_back({{"file", p.file}, {"class", p.label}, {"probability", p.probability}});
    }
    return print_json({{"images", images}});
  }
  size_t file_width = 0, label_width = 0;
  for (const Prediction& p : predictions) {
    file_width = std::max(file_width, printable(p.file).size());
    label_width = std::max(label_width, p.label.size());
  }
  std::string text;
  for (const Prediction& p : predictions) {
    text += fmt::format("{:{}}  {:{}}  {:5.1f} %\n", printable(p.file), file_width, p.label, label_width,
                        100 * p.probability);
  }
  print(text);
}

}  // namespace

void add_predict(CLI::App& program, Action& action) {
  auto* verb = program.add_subcommand("predict", "Classify images with a trained network");
  auto arguments = std::make_shared<PredictArguments>();
  verb->add_option("run", arguments->run, "A run directory (OUT/ARM/seed-N) or one of its step-N folders")->required();
  verb->add_option("--images", arguments->images, "Folder with images: .jpg, .jpeg, .png, also in its subfolders")
      ->required();
  verb->add_flag("--json", arguments->json, "Print JSON: file, class and probability of each image");
  verb->add_flag("--quiet", arguments->quiet, "No progress");
  verb->footer(
      "Examples:\n  loci predict out/side/seed-0 --images photos\n"
      "  loci predict out/side/seed-0/step-40 --images photos --json");
  verb->callback([arguments, &action] { action = [arguments] { print_predictions(*arguments); }; });
}

}  // namespace loci::cli
