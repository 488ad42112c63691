// Stories of five sentences whose truths a simulator knows: data for memories that keep what earlier sentences implied
// (the setting of Gabriel et al. 2021, arXiv 2010.01486; grammar and relations' texts are ours).
//
// A story has three of 12 persons and two of 20 objects. A sentence is one event, drawn among those that are possible:
//
//   go      "Ann went to the barn ."       always
//   find    "Ann found a key there ."      Ann's place is known; the key lies there, or was never found
//   give    "Ann gave Ben the key ."       Ann has it
//   steal   "Ann stole Ben 's key ."       Ben has it
//   lose    "Ann lost the key today ."     Ann has it
//   rest    "Ann had a rest then ."        Ann's place is known, and she is not calm yet
//
// The state: who is where, who has what and where it was found, what lies where, who feels what. Nine relations of a
// sentence (those of ATOMIC) are each a text of at most five words that is a function of the sentence and the state:
//
//            go              find            give             steal            lose             rest
//   xNeed    to leave [P]    to be at [P]    to have O [P]    to meet Y [at P] to have O [P]    to be at [P]
//   xIntent  to see P        to own O        to please Y      to own O         none             to feel better
//   xAttr    curious         lucky           kind             greedy           careless         [mood]
//   xWant    to use [O]      to keep O safe  to see Y [at P]  to leave [P]     to search [P]    to leave [P]
//   xEffect  X is at P       X has O [P]     Y has O [P]      X has O [P]      O lies at [P]    X is at [P]
//   xReact   X feels [mood]  happy           proud            afraid           sad              calm
//   oWant    none            none            to thank X       to get O back    none             none
//   oEffect  none            none            Y owns O         Y misses O       none             none
//   oReact   none            none            grateful         angry            none             none
//
// What stands in brackets the sentence does not say: an earlier one decided it (place of a person: their last going;
// place of an object's find; an object that a person got; a mood). Where nothing did, another text stands for it ("to
// get ready"). A story is a pure function of (seed, stream, part, its number). Its sentences decide its part, so that
// no story that is held out ever comes up in training.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string_view>

#include "loci/base/random.h"
#include "loci/data/procedural/story_words.h"

namespace loci {

enum class StoryEvent { go, find, give, steal, lose, rest };
enum class StoryRelation { x_need, x_intent, x_attr, x_want, x_effect, x_react, o_want, o_effect, o_react };

// True for those that come before the event: they see the story up to their sentence only.
constexpr bool is_cause(StoryRelation relation) {
  return relation <= StoryRelation::x_attr;
}

constexpr int64_t kStorySentenceWords = 6;
constexpr int64_t kStoryInferenceWords = 5;  // at most

// Numbers of persons, objects and places; -1: none.
struct StorySentence {
  StoryEvent event = StoryEvent::go;
  int64_t actor = -1, other = -1, object = -1, place = -1;
  bool operator==(const StorySentence&) const = default;
};

// Which earlier inference says what a sentence does not say.
struct StoryFact {
  int64_t sentence = -1;
  StoryRelation relation = StoryRelation::x_effect;
  int64_t word = -1;  // the token that it decides
};

struct StoryInference {
  std::array<int64_t, kStoryInferenceWords> words = {};  // tokens, then padding
  StoryFact fact;
  bool cross_sentence() const { return fact.sentence >= 0; }
};

// A number, and the sentence that decided it; -1: none.
struct StoryValue {
  int64_t value = -1;
  int64_t by = -1;
  bool known() const { return value >= 0; }
};

struct StoryState {
  struct Person {
    StoryValue place, mood;
    bool mood_of_other = false;  // decided by a sentence in which they were not the actor
  };
  struct Object {
    StoryValue holder, origin;  // who has it; where it was found
    int64_t lies_at = -1;
    bool found = false;  // ever
  };
  std::array<Person, kStoryPersons> persons;
  std::array<Object, kStoryObjects> objects;

  bool possible(const StorySentence& sentence) const;
  void apply(const StorySentence& sentence, int64_t number);
};

struct Story {
  std::array<StorySentence, kStorySentences> sentences;
  std::array<StoryState, kStorySentences + 1> states;  // before the first sentence, behind each
  std::array<std::array<StoryInference, kStoryRelations>, kStorySentences> inferences;

  const StoryInference& inference(int64_t sentence, StoryRelation relation) const {
    return inferences.at(static_cast<size_t>(sentence)).at(static_cast<size_t>(relation));
  }
};

enum class StoryPart { training, held_out };
bool is_held_out_story(const Story& story);  // one of eight, by the checksum of its text

class StoryGrammar {
 public:
  StoryGrammar(uint64_t seed, std::string_view stream, StoryPart part)
      : seed_(seed), streams_(seed, stream), part_(part) {}
  Story story(int64_t number) const;

 private:
  uint64_t seed_;
  CounterRandom streams_;  // of stories
  StoryPart part_;
};

std::array<int64_t, kStorySentenceWords> story_sentence_words(const StorySentence& sentence);

// Whether a text (tokens up to the first end or padding) as `relation` of a sentence agrees with the state: it is the
// inference itself, or another statement on places, objects or moods that is true there.
bool story_agrees(const Story& story, int64_t sentence, StoryRelation relation, std::span<const int64_t> text);

}  // namespace loci
