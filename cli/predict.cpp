// loci predict: what a trained network makes of images: classes, poses of the camera, detections, or reconstructions as
// PNG; of clips: classes; and of texts: classes.
#include <c10/core/InferenceMode.h>
#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "cli/output.h"
#include "cli/predictions.h"
#include "cli/run_argument.h"
#include "cli/verbs.h"
#include "loci/base/check.h"
#include "loci/train/experiment.h"
#include "loci/train/memory_check.h"
#include "loci/train/precision.h"

namespace loci::cli {
namespace {

constexpr size_t kMostPictures = 64;  // their pixels and rows are some 100 KB of JSON each

struct PredictArguments {
  std::string run;
  std::string images;
  std::string texts;  // file, of a run of text_classification
  std::string out;    // folder of reconstructions
  bool pictures = false;
  bool json = false;
  bool quiet = false;
};

// --texts for a run of texts, --images for the others.
void check_source(const PredictArguments& arguments, const RunArgument& run) {
  const bool of_texts = dynamic_cast<const TextClassificationPlan*>(run.config.plan.get()) != nullptr;
  const auto check = [&](const char* option, const std::string& value, bool wanted) {
    if (value.empty() != wanted) return;
    fail(ExitCode::usage, "predict",
         fmt::format("{} must {}be given for a run of {}", option, wanted ? "" : "not ", run.config.task),
         wanted ? "none" : value);
  };
  check("--texts", arguments.texts, of_texts);
  check("--images", arguments.images, !of_texts);
}

std::vector<Prediction> predict(const PredictArguments& arguments, const RunArgument& run) {
  const TaskPlan* plan = run.config.plan.get();
  check_source(arguments, run);
  const auto* reconstruction = dynamic_cast<const ReconstructionPlan*>(plan);
  if ((reconstruction == nullptr) != arguments.out.empty()) {
    fail(ExitCode::usage, "predict",
         fmt::format("--out must {}be given for a run of {}", reconstruction != nullptr ? "" : "not ", run.config.task),
         arguments.out.empty() ? "none" : arguments.out);
  }
  const auto* video = dynamic_cast<const VideoClassificationPlan*>(plan);
  const auto* texts = dynamic_cast<const TextClassificationPlan*>(plan);
  const bool of_images = video == nullptr && texts == nullptr;
  if (!of_images && arguments.pictures) {
    fail(ExitCode::usage, "--pictures", "it must not be given for a run of " + run.config.task, "it");
  }
  const std::vector<ImageSource> sources = of_images ? images_in(arguments.images) : std::vector<ImageSource>{};
  if (arguments.pictures && sources.size() > kMostPictures) {
    fail(ExitCode::usage, "--pictures", fmt::format("--images must hold at most {} images", kMostPictures),
         fmt::to_string(sources.size()));
  }
  require_memory("predict", memory_of_parameters(run.config.size()));
  use_threads(run.config.train.threads);
  ProgressLine progress(arguments.quiet);
  const c10::InferenceMode no_gradient;
  const PrecisionGuard precision(wants_bfloat16(run.config.train.precision));
  if (video != nullptr) return predict_clips(run, *video, arguments.images, progress);
  if (texts != nullptr) return predict_texts(run, *texts, arguments.texts, progress);
  const PredictInputs inputs{run, sources, progress, arguments.pictures};
  if (reconstruction != nullptr) return predict_reconstructions(inputs, *reconstruction, arguments.out);
  if (const auto* poses = dynamic_cast<const RelocalisationPlan*>(plan)) return predict_poses(inputs, *poses);
  if (const auto* shapes = dynamic_cast<const ShapesKeypointsPlan*>(plan)) return predict_detections(inputs, *shapes);
  return predict_classes(inputs, dynamic_cast<const ImageClassificationPlan&>(*plan));
}

void print_predictions(const PredictArguments& arguments) {
  const RunArgument run = find_run(arguments.run);
  require_verb(run, "predict");
  const std::vector<Prediction> predictions = predict(arguments, run);
  if (arguments.json) {
    nlohmann::json all = nlohmann::json::array();
    for (const Prediction& p : predictions) all.push_back(p.json);
    const TaskPlan* plan = run.config.plan.get();
    const bool clips = dynamic_cast<const VideoClassificationPlan*>(plan) != nullptr;
    return print_json({{!arguments.texts.empty() ? "texts" : clips ? "clips" : "images", all}});
  }
  std::vector<size_t> widths;
  for (const Prediction& p : predictions) {
    widths.resize(p.columns.size());
    for (size_t i = 0; i < widths.size(); ++i) widths[i] = std::max(widths[i], p.columns[i].size());
  }
  std::string text;
  for (const Prediction& p : predictions) {
    std::string line;
    for (size_t i = 0; i < widths.size(); ++i) line += fmt::format("{:{}}  ", p.columns[i], widths[i]);
    text += line.substr(0, line.find_last_not_of(' ') + 1) + "\n";
  }
  print(text);
}

}  // namespace

void add_predict(CLI::App& program, Action& action) {
  auto* verb = program.add_subcommand(
      "predict", "Classes, camera poses, detections or reconstructions of images, or classes of clips or texts");
  auto arguments = std::make_shared<PredictArguments>();
  verb->add_option("run", arguments->run, "A run directory (OUT/ARM/seed-N) or one of its step-N folders")->required();
  verb->add_option("--images", arguments->images,
                   "Folder with images: .jpg, .jpeg, .png, also in its subfolders; for clips, each folder in it that "
                   "holds frames is one");
  verb->add_option("--texts", arguments->texts,
                   "File with texts, for a run of text_classification: columns or keys as those of its training data; "
                   "labels are not needed");
  verb->add_option("--out", arguments->out, "Folder that reconstructions are written to, as PNG of the images' names");
  auto* json = verb->add_flag("--json", arguments->json, "Print JSON: an object for each image, clip or text");
  verb->add_flag("--pictures", arguments->pictures,
                 "The JSON also has what the report draws: images, the rows that positions read, where blocks look")
      ->needs(json);
  verb->add_flag("--quiet", arguments->quiet, "No progress");
  verb->footer(
      "Examples:\n  loci predict out/side/seed-0 --images photos\n"
      "  loci predict out/side/seed-0/step-40 --images photos --json\n"
      "  loci predict out/side/seed-0 --images photos --json --pictures > out/side/seed-0/pictures.json\n"
      "  loci predict out/vq/seed-0 --images photos --out reconstructions\n"
      "  loci predict out/classes/seed-0 --texts reviews.tsv");
  verb->callback([arguments, &action] { action = [arguments] { print_predictions(*arguments); }; });
}

}  // namespace loci::cli
