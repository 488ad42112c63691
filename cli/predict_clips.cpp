#include <fmt/format.h>

#include "cli/output.h"
#include "cli/predictions.h"
#include "loci/base/stop_signal.h"

namespace loci::cli {

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

}  // namespace loci::cli
