#include <fmt/format.h>

#include <algorithm>
#include <span>

#include "cli/output.h"
#include "cli/predictions.h"
#include "loci/base/stop_signal.h"

namespace loci::cli {

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

}  // namespace loci::cli
