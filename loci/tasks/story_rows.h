// Rows of the task `stories` as tensors: prompts, answers and the items of a memory.
//
// Legend: B rows, P positions, M items, L words of an item.
//
//   prompt   the story, its sentence token, its relation token. A cause sees the story up to its sentence only
//   answer   the words of the inference, end
//   items    the nine inferences of each earlier sentence, in their order
#pragma once

#include <ATen/core/Tensor.h>

#include <array>
#include <cstdint>
#include <vector>

#include "loci/data/procedural/story_grammar.h"

namespace loci {

enum class StoryInput { sentence, story };
enum class StoryQuery { row, question };
enum class StoryItems { earlier, right };

constexpr int64_t kStoryQuestionWords = 2;                       // sentence token, relation token
constexpr int64_t kStoryAnswerWords = kStoryInferenceWords + 1;  // with the end
constexpr int64_t kStoryPromptWords = kStorySentences * kStorySentenceWords + kStoryQuestionWords;
constexpr int64_t kStoryRowWords = kStoryPromptWords + kStoryAnswerWords;
constexpr int64_t kStoryMostItems = (kStorySentences - 1) * kStoryRelations;

// Words of inferences, of every sentence and relation: the true ones, or those of a model.
using StoryTexts = std::array<std::array<std::array<int64_t, kStoryInferenceWords>, kStoryRelations>, kStorySentences>;
StoryTexts true_texts(const Story& story);

std::vector<int64_t> story_prompt(const Story& story, int64_t sentence, StoryRelation relation, StoryInput input);

// Writes the items of a question to out [M, L], which is all padding, and returns how many they are, 36 at most.
// `earlier`: those of `texts` for the sentences before. `right`: the one true inference that says what the sentence
// does not; none where nothing is missing.
int64_t fill_story_items(const Story& story, const StoryTexts& texts, int64_t sentence, StoryRelation relation,
                         StoryItems items, int64_t* out);

struct StoryRows {
  at::Tensor input, target;  // int64 [B, P]; target -1: none
  at::Tensor items;          // int64 [B, M, L]
  at::Tensor query;          // bool [B, P]
};

struct StoryRowOptions {
  StoryInput input = StoryInput::story;
  bool has_items = false;
  StoryItems items = StoryItems::earlier;
  StoryQuery query = StoryQuery::row;
};

// Rows first .. first + count - 1: a story each, with a sentence and a relation that are drawn uniformly, and the true
// inferences as items.
class StoryTraining {
 public:
  StoryTraining(uint64_t seed, StoryRowOptions options);
  StoryRows rows(int64_t first, int64_t count) const;

 private:
  StoryRowOptions options_;
  StoryGrammar grammar_;
  CounterRandom questions_;
};

// The positions of prompts [B, P] that a memory is asked with.
at::Tensor story_query(int64_t rows, int64_t positions, StoryQuery query);

}  // namespace loci
