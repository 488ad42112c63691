// What inferences of stories are judged by.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "loci/tasks/story_rows.h"
#include "loci/train/measure.h"

namespace loci {

// One inference of a model, and what its memory did.
struct StoryAnswer {
  std::array<int64_t, kStoryInferenceWords> words = {};  // tokens, then padding
  bool ended = true;                                     // false: it had more words than an inference can have
  int64_t item = -1;                                     // the best one; -1: without a memory, or without items
  std::span<const int64_t> items;                        // [M, L]: all that the memory had
};

// F1 of the words of two texts, each word as often as it stands in both.
double story_f1(std::span<const int64_t> answer, std::span<const int64_t> truth);

class StoryScores {
 public:
  static std::vector<Measure> measures();

  void add(const Story& story, int64_t sentence, StoryRelation relation, const StoryAnswer& answer);
  // Of the measures above; details: how many, exact by distance to the deciding sentence, chance of retrieval.
  Evaluation evaluation() const;
  int64_t answers() const { return all_.count; }

 private:
  struct Part {
    int64_t count = 0;
    double exact = 0, f1 = 0;
    void add(double one_exact, double one_f1);
  };
  Part all_, same_, cross_;
  std::array<Part, kStorySentences> by_distance_;
  double agree_ = 0;
  // Of cross-sentence inferences with items: how many, and how often the best item has the deciding word, and is the
  // inference that decided it; what a uniform choice reaches.
  double asked_ = 0, has_word_ = 0, is_fact_ = 0, chance_word_ = 0, chance_fact_ = 0;
};

}  // namespace loci
