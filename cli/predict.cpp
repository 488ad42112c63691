// loci predict: what a trained network makes of images: classes, poses of the camera, detections, or reconstructions as
// PNG; of clips: classes; and of texts: classes.
#include <ATen/ops/empty.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/softmax.h>
#include <c10/core/InferenceMode.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
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
#include "loci/tasks/attention_map.h"
#include "loci/tasks/image_classification.h"
#include "loci/tasks/reconstruction.h"
#include "loci/tasks/relocalisation.h"
#include "loci/tasks/row_map.h"
#include "loci/tasks/shapes_keypoints.h"
#include "loci/tasks/text_classification.h"
#include "loci/tasks/video_classification.h"
#include "loci/train/experiment.h"
#include "loci/train/memory_check.h"
#include "loci/train/precision.h"

namespace loci::cli {
namespace {

constexpr int64_t kPredictedAtOnce = 64;  // images
constexpr double kShownScore = 0.3;       // of a detection in a line of text
constexpr size_t kMostPictures = 64;      // their pixels and rows are some 100 KB of JSON each

struct PredictArguments {
  std::string run;
  std::string images;
  std::string texts;  // file, of a run of text_classification
  std::string out;    // folder of reconstructions
  bool pictures = false;
  bool json = false;
  bool quiet = false;
};

// What is said of an image or a clip: columns for people, an object for programs.
struct Prediction {
  std::vector<std::string> columns;
  nlohmann::json json;
};

// Of a batch [B, C, height, width] that begins with the `first`-th image of the folder.
using PredictBatch = std::function<std::vector<Prediction>(const at::Tensor& images, size_t first)>;

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

void require_shape(const ImageShape& got, const ImageShape& wanted, const std::filesystem::path& path) {
  if (got == wanted) return;
  fail(ExitCode::input, path.string(),
       fmt::format("images must be {} x {} as those of the run", wanted.height, wanted.width),
       fmt::format("{} x {}", got.height, got.width));
}

LabelledImages load_images(const ImageOptions& options, const ImageShape& wanted,
                           const std::vector<ImageSource>& sources, ProgressLine& progress) {
  ImageLoader loader(options, progress);
  LabelledImages result{loader.load(sources), std::vector<int64_t>(sources.size(), 0)};  // labels are of no use
  require_shape(result.images.shape(), wanted, sources[0].path);
  return result;
}

// What a kind of network needs besides itself.
struct PredictInputs {
  const RunArgument& run;
  const std::vector<ImageSource>& sources;
  ProgressLine& progress;
  bool pictures;
  uint64_t seed() const { return static_cast<uint64_t>(run.config.seed); }
};

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

// The likeliest class of each row of probabilities [B, classes].
std::vector<Prediction> likeliest(const at::Tensor& probabilities, const std::vector<std::string>& classes) {
  const auto [probability, label] = probabilities.max(1);
  std::vector<Prediction> found;
  for (int64_t i = 0; i < probabilities.size(0); ++i) {
    const std::string& name = classes[static_cast<size_t>(label[i].item<int64_t>())];
    const auto share = probability[i].item<double>();
    found.push_back({{name, fmt::format("{:5.1f} %", 100 * share)}, {{"class", name}, {"probability", share}}});
  }
  return found;
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

// Each image's reconstruction as a PNG of the same name under `out`.
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

// Detections of a score of at least kShownScore for people; all for programs.
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

// Of the clips in a folder, each a folder of frames.
std::vector<Prediction> predict_clips(const RunArgument& run, const VideoClassificationPlan& plan,
                                      const std::filesystem::path& folder, ProgressLine& progress) {
  const LoadedVideoClassifier loaded =
      load_video_classifier(plan, static_cast<uint64_t>(run.config.seed), run.checkpoint);
  const LabelledClips data = load_clips(folder, loaded.data.image, progress);
  require_shape(data.frames.shape(), loaded.input.shape, (folder / data.clips.front().name).lexically_normal());
  const ImageShape output = loaded.data.output(loaded.input.shape);
  const ClipSequence batches = test_sequence(data, loaded.input, loaded.data);
  std::vector<Prediction> predictions;
  for (int64_t index = 0; index < batches.batches(); ++index) {
    StopSignal::check("stopped while clips were predicted");
    progress.show(fmt::format("predicting: {} of {} clips", predictions.size(), data.clips.size()));
    const ClipBatch batch = test_batch(batches, index, loaded.data, output);
    const at::Tensor logits = loaded.model->forward(batch.clips);
    for (Prediction& made :
         likeliest(clip_probabilities(logits, loaded.data.windows.eval_clips), loaded.input.classes)) {
      const std::string& name = data.clips[predictions.size()].name;
      made.columns.insert(made.columns.begin(), printable(name));
      made.json["clip"] = name;
      predictions.push_back(std::move(made));
    }
  }
  progress.finish();
  return predictions;
}

std::vector<Prediction> predict_texts(const RunArgument& run, const TextClassificationPlan& plan,
                                      const std::filesystem::path& file, ProgressLine& progress) {
  const LoadedTextClassifier loaded =
      load_text_classifier(plan, static_cast<uint64_t>(run.config.seed), run.checkpoint);
  const std::vector<LabelledText> texts = read_unlabelled_texts(file, plan.data);
  std::vector<Prediction> predictions;
  for (size_t first = 0; first < texts.size(); first += kPredictedAtOnce) {
    StopSignal::check("stopped while texts were predicted");
    progress.show(fmt::format("predicting: {} of {} texts", first, texts.size()));
    const std::span part = std::span(texts).subspan(first, std::min<size_t>(kPredictedAtOnce, texts.size() - first));
    const at::Tensor probabilities = text_probabilities(loaded, part);
    for (Prediction& made : likeliest(probabilities, loaded.classes)) {
      const LabelledText& text = texts[predictions.size()];
      made.columns.push_back(printable(text.pair.empty() ? text.text : text.text + " | " + text.pair));
      made.json["text"] = text.text;
      if (!text.pair.empty()) made.json["pair"] = text.pair;
      predictions.push_back(std::move(made));
    }
  }
  progress.finish();
  return predictions;
}

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
