// Legend: B rows, P positions, M items, L words of an item.
#include "loci/tasks/stories.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>

#include "loci/base/check.h"
#include "loci/base/stop_signal.h"
#include "loci/tasks/network_size.h"

namespace loci {
namespace {

constexpr int64_t kStoriesAtOnce = 50;
constexpr uint64_t kTestStoriesSeed = 0;  // for every run

StoryAnswer answer_of(const int64_t* tokens, int64_t count) {
  StoryAnswer answer;
  const int64_t* end = std::find(tokens, tokens + count, int64_t{story::end});
  answer.ended = end - tokens <= kStoryInferenceWords;
  std::copy(tokens, std::min(end, tokens + kStoryInferenceWords), answer.words.begin());
  return answer;
}

}  // namespace

void StoryTaskData::fields(ConfigFields& f) {
  f.field("test_stories", test_stories, "stories of an evaluation, the same ones for every seed",
          {.minimum = 1, .maximum = 1 << 20});
}

void StoryMemoryOptions::fields(ConfigFields& f) {
  f.choice("items", items, "inferences of earlier sentences, or only the one that decides",
           {{"earlier", StoryItems::earlier}, {"right", StoryItems::right}});
  f.choice("query", query, "the memory is asked with the mean of the whole prompt, or of its two last tokens",
           {{"row", StoryQuery::row}, {"question", StoryQuery::question}});
  f.field("count_padding", count_padding, "padding counts in means and sums of items, as in the authors' code");
  read.fields(f);
}

void StoryModelOptions::fields(ConfigFields& f) {
  constexpr int64_t most = 1 << 14;
  f.choice("input", input, "what the model sees: the sentence alone, or the story",
           {{"sentence", StoryInput::sentence}, {"story", StoryInput::story}});
  f.field("layers", layers, "layers of attention and feed-forward", {.minimum = 1, .maximum = 1 << 10});
  f.field("width", width, "width of the residual stream, a multiple of 2 * heads", {.minimum = 2, .maximum = most});
  f.field("heads", heads, "heads of the attention", {.minimum = 1, .maximum = most});
  f.field("ffn_width", ffn_width, "hidden width of the feed-forward blocks; 0: 4 * width",
          {.minimum = 0, .maximum = most});
  f.optional_section("memory", has_memory, memory);
}

TransformerLmOptions StoryModelOptions::transformer() const {
  TransformerLmOptions options;
  options.vocabulary = story::count;
  options.end_of_text = story::end;
  options.layers = layers;
  options.width = width;
  options.heads = heads;
  options.ffn_width = ffn_width;
  options.context = kStoryRowWords;
  return options;
}

std::optional<RetrievalMemoryOptions> StoryModelOptions::retrieval() const {
  if (!has_memory) return std::nullopt;
  RetrievalMemoryOptions options;
  options.vocabulary = story::count;
  options.width = width;
  options.length = kStoryInferenceWords;
  options.padding = story::pad;
  options.count_padding = memory.count_padding;
  options.read = memory.read;
  return options;
}

StoryRowOptions StoryModelOptions::rows() const {
  return {.input = input, .has_items = has_memory, .items = memory.items, .query = memory.query};
}

int64_t StoryModelOptions::parameters() const {
  const int64_t dense = TransformerLm::count_parameters(transformer()).first;
  return has_memory ? checked_sum("model", "parameters", dense, retrieval()->parameters()) : dense;
}

void StoriesPlan::fields(ConfigFields& f) {
  f.section("data", data);
  f.section("model", model);
}

void StoriesPlan::check() const {
  model.parameters();
}

RunSize StoriesPlan::size(const BatchShape& batch, const RowOptimizerOptions&, bool) const {
  RunSize size = network_size(model.parameters(), 0, batch);
  const TransformerLmOptions options = model.transformer();
  const auto d = static_cast<double>(options.width);
  const double ffn = options.ffn_width == 0 ? 4 * d : static_cast<double>(options.ffn_width);
  const double of_layer = 12 * d + 2 * ffn + static_cast<double>(options.heads * kStoryRowWords);
  const double of_position = static_cast<double>(options.layers) * of_layer + 4 * d + static_cast<double>(story::count);
  const double of_items = model.has_memory ? 3 * d * kStoryMostItems * kStoryInferenceWords : 0;
  add_activations(size, 4 * (static_cast<double>(kStoryRowWords) * of_position + of_items), batch);
  return size;
}

std::unique_ptr<Task> StoriesPlan::make(const TaskInputs& inputs) const {
  return std::make_unique<Stories>(*this, inputs);
}

std::unique_ptr<TaskPlan> stories_plan() {
  return std::make_unique<StoriesPlan>();
}

Stories::Stories(const StoriesPlan& plan, const TaskInputs& inputs)
    : plan_(plan),
      batch_(inputs.batch),
      rows_(plan.model.rows()),
      training_(inputs.seed, rows_),
      test_(kTestStoriesSeed, "stories.test", StoryPart::held_out),
      model_(std::make_shared<RetrievalLm>(plan.model.transformer(), plan.model.retrieval(), inputs.seed)),
      progress_(inputs.progress),
      batches_([this](int64_t position) {
        const int64_t count = batch_.per_micro_batch();
        return training_.rows(position * count, count);
      }) {}

at::Tensor Stories::loss(int64_t step, int64_t micro) {
  const StoryRows rows = batches_.take(step * batch_.accumulation + micro);
  return model_->answer_loss(rows.input, rows.target, rows.items, rows.query);
}

int64_t Stories::test_chunks() const {
  return (plan_.data.test_stories + kStoriesAtOnce - 1) / kStoriesAtOnce;
}

std::vector<Story> Stories::test_stories(int64_t chunk) const {
  std::vector<Story> stories;
  const int64_t end = std::min((chunk + 1) * kStoriesAtOnce, plan_.data.test_stories);
  for (int64_t i = chunk * kStoriesAtOnce; i < end; ++i) stories.push_back(test_.story(i));
  return stories;
}

void Stories::answer_sentence(const std::vector<Story>& stories, int64_t sentence, bool causes,
                              std::vector<StoryTexts>& texts, StoryScores& scores) {
  std::vector<StoryRelation> relations;
  for (int64_t r = 0; r < kStoryRelations; ++r) {
    if (is_cause(static_cast<StoryRelation>(r)) == causes) relations.push_back(static_cast<StoryRelation>(r));
  }
  std::vector<int64_t> prompts;
  const int64_t rows = std::ssize(stories) * std::ssize(relations);
  const bool one_item = rows_.items == StoryItems::right;
  const int64_t most = !rows_.has_items ? 0 : one_item ? 1 : sentence * kStoryRelations;
  at::Tensor items = at::zeros({rows, most, kStoryInferenceWords}, at::kLong);
  auto* item = items.mutable_data_ptr<int64_t>();
  std::vector<int64_t> item_counts;
  for (size_t s = 0; s < stories.size(); ++s) {
    for (const StoryRelation relation : relations) {
      const std::vector<int64_t> prompt = story_prompt(stories[s], sentence, relation, rows_.input);
      prompts.insert(prompts.end(), prompt.begin(), prompt.end());
      item_counts.push_back(most == 0 ? 0
                                      : fill_story_items(stories[s], texts[s], sentence, relation, rows_.items, item));
      item += most * kStoryInferenceWords;
    }
  }
  const int64_t positions = std::ssize(prompts) / rows;
  const at::Tensor prompt = at::from_blob(prompts.data(), {rows, positions}, at::kLong);
  const RetrievalLm::Answers answers =
      model_->answer(prompt, items, story_query(rows, positions, rows_.query), kStoryAnswerWords, story::end);
  const at::Tensor best = most > 0 ? answers.weight.argmax(1).contiguous() : at::Tensor();
  const at::Tensor tokens = answers.tokens.contiguous();
  for (int64_t row = 0; row < rows; ++row) {
    const auto s = static_cast<size_t>(row / std::ssize(relations));
    const StoryRelation relation = relations[static_cast<size_t>(row % std::ssize(relations))];
    StoryAnswer answer = answer_of(tokens.const_data_ptr<int64_t>() + row * tokens.size(1), tokens.size(1));
    const auto count = static_cast<size_t>(item_counts[static_cast<size_t>(row)]);
    if (count > 0) {
      answer.item = best.const_data_ptr<int64_t>()[row];
      answer.items = {items.const_data_ptr<int64_t>() + row * most * kStoryInferenceWords,
                      count * kStoryInferenceWords};
    }
    scores.add(stories[s], sentence, relation, answer);
    texts[s].at(static_cast<size_t>(sentence)).at(static_cast<size_t>(relation)) = answer.words;
  }
}

void Stories::answer_stories(const std::vector<Story>& stories, StoryScores& scores) {
  std::vector<StoryTexts> texts(stories.size());
  for (int64_t sentence = 0; sentence < kStorySentences; ++sentence) {
    for (const bool causes : {true, false}) answer_sentence(stories, sentence, causes, texts, scores);
  }
}

Evaluation Stories::evaluate() {
  StoryScores scores;
  for (int64_t chunk = 0; chunk < test_chunks(); ++chunk) {
    StopSignal::check("stopped while the model was evaluated");
    if (progress_ != nullptr) progress_->show(fmt::format("evaluating: {} inferences", scores.answers()));
    answer_stories(test_stories(chunk), scores);
  }
  Evaluation evaluation = scores.evaluation();
  evaluation.details["stories"] = plan_.data.test_stories;
  evaluation.details["parameters"] = plan_.model.parameters();
  return evaluation;
}

Account Stories::account(const Evaluation& evaluation, const AccountOptions& options) {
  Account account = Task::account(evaluation, options);
  const nlohmann::json& details = evaluation.details;
  const auto percent = [](const nlohmann::json& value) { return fmt::format("{:.1f} %", 100 * number_of(value)); };
  account.text = fmt::format("{} test stories, {} inferences, of which an earlier sentence decides {}; {} parameters\n",
                             details.at("stories").get<int64_t>(), details.at("inferences").get<int64_t>(),
                             details.at("cross_inferences").get<int64_t>(), details.at("parameters").get<int64_t>());
  for (const nlohmann::json& part : details.at("by_distance")) {
    if (part.at("inferences").get<int64_t>() == 0) continue;
    account.text +=
        fmt::format("decided {} sentence{} before: {} exact, F1 {:.3f} ({} inferences)\n",
                    part.at("distance").get<int64_t>(), part.at("distance") == 1 ? "" : "s", percent(part.at("exact")),
                    number_of(part.at("f1")), part.at("inferences").get<int64_t>());
  }
  if (!std::isnan(evaluation.values.back())) {
    account.text += fmt::format(
        "the best item has the deciding word: {} (a uniform choice: {}); it is the deciding inference: {} ({})\n",
        percent(evaluation.values.back()), percent(details.at("retrieval_chance")),
        percent(details.at("retrieval_of_fact")), percent(details.at("retrieval_of_fact_chance")));
  }
  return account;
}

int64_t Stories::infer(int64_t position) {
  const std::vector<Story> stories = test_stories(position % test_chunks());
  StoryScores scores;
  answer_stories(stories, scores);
  return scores.answers();
}

}  // namespace loci
