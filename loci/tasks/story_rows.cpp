// Legend: B rows, P positions, M items, L words of an item.
#include "loci/tasks/story_rows.h"

#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>

#include <algorithm>

namespace loci {

StoryTexts true_texts(const Story& story) {
  StoryTexts texts = {};
  for (size_t i = 0; i < kStorySentences; ++i) {
    for (size_t r = 0; r < kStoryRelations; ++r) texts.at(i).at(r) = story.inferences.at(i).at(r).words;
  }
  return texts;
}

std::vector<int64_t> story_prompt(const Story& story, int64_t sentence, StoryRelation relation, StoryInput input) {
  const int64_t first = input == StoryInput::sentence ? sentence : 0;
  const int64_t behind = input == StoryInput::sentence || is_cause(relation) ? sentence + 1 : kStorySentences;
  std::vector<int64_t> prompt;
  for (int64_t i = first; i < behind; ++i) {
    const auto words = story_sentence_words(story.sentences.at(static_cast<size_t>(i)));
    prompt.insert(prompt.end(), words.begin(), words.end());
  }
  prompt.push_back(story::sentence_token + sentence);
  prompt.push_back(story::relation_token + static_cast<int64_t>(relation));
  return prompt;
}

int64_t fill_story_items(const Story& story, const StoryTexts& texts, int64_t sentence, StoryRelation relation,
                         StoryItems items, int64_t* out) {
  if (items == StoryItems::right) {
    const StoryFact& fact = story.inference(sentence, relation).fact;
    if (fact.sentence < 0) return 0;
    const auto& words = story.inference(fact.sentence, fact.relation).words;
    std::copy(words.begin(), words.end(), out);
    return 1;
  }
  for (size_t i = 0; i < static_cast<size_t>(sentence); ++i) {
    for (const auto& words : texts.at(i)) out = std::copy(words.begin(), words.end(), out);
  }
  return sentence * kStoryRelations;
}

at::Tensor story_query(int64_t rows, int64_t positions, StoryQuery query) {
  at::Tensor mask = at::zeros({rows, positions}, at::kBool);
  const int64_t count = query == StoryQuery::row ? positions : std::min(positions, kStoryQuestionWords);
  mask.narrow(1, positions - count, count).fill_(true);
  return mask;
}

StoryTraining::StoryTraining(uint64_t seed, StoryRowOptions options)
    : options_(options),
      grammar_(seed, "stories.training", StoryPart::training),
      questions_(seed, "stories.questions") {}

StoryRows StoryTraining::rows(int64_t first, int64_t count) const {
  const int64_t positions = kStoryRowWords - 1, items = options_.has_items ? kStoryMostItems : 0;
  StoryRows rows = {at::full({count, positions}, int64_t{story::pad}, at::kLong),
                    at::full({count, positions}, -1, at::kLong),
                    at::full({count, items, kStoryInferenceWords}, int64_t{story::pad}, at::kLong),
                    at::zeros({count, positions}, at::kBool)};
  auto* input = rows.input.mutable_data_ptr<int64_t>();
  auto* target = rows.target.mutable_data_ptr<int64_t>();
  auto* item = rows.items.mutable_data_ptr<int64_t>();
  auto* query = rows.query.mutable_data_ptr<bool>();
  for (int64_t b = 0; b < count; ++b) {
    const Story story = grammar_.story(first + b);
    const auto question =
        static_cast<int64_t>(questions_.below(static_cast<uint64_t>(first + b), kStorySentences * kStoryRelations));
    const int64_t sentence = question / kStoryRelations;
    const auto relation = static_cast<StoryRelation>(question % kStoryRelations);
    std::vector<int64_t> row = story_prompt(story, sentence, relation, options_.input);
    const int64_t prompt = std::ssize(row);
    for (const int64_t word : story.inference(sentence, relation).words) {
      if (word != story::pad) row.push_back(word);
    }
    row.push_back(story::end);
    std::copy(row.begin(), row.end() - 1, input + b * positions);
    std::copy(row.begin() + prompt, row.end(), target + b * positions + prompt - 1);
    const int64_t asked = options_.query == StoryQuery::row ? prompt : kStoryQuestionWords;
    std::fill_n(query + b * positions + prompt - asked, asked, true);
    if (items == 0) continue;
    fill_story_items(story, true_texts(story), sentence, relation, options_.items,
                     item + b * items * kStoryInferenceWords);
  }
  return rows;
}

}  // namespace loci
