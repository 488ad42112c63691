#include "loci/data/procedural/story_grammar.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <set>
#include <sstream>
#include <string>
#include <vector>

namespace loci {
namespace {

constexpr int64_t kStories = 3000;

// Another simulator: it reads the words of the sentences and looks backwards for what decided a question, without any
// state. Sentences as lists of words.
class Replay {
 public:
  explicit Replay(const Story& story) {
    for (const StorySentence& sentence : story.sentences) {
      std::istringstream words(story_text(story_sentence_words(sentence)));
      sentences_.emplace_back();
      for (std::string word; words >> word;) sentences_.back().push_back(word);
    }
  }

  // The place that the last "WHO went to the PLACE" before sentence `end` says; "": none.
  std::string place_of(const std::string& who, size_t end) const {
    for (size_t k = end; k-- > 0;) {
      if (sentences_[k][0] == who && sentences_[k][1] == "went") return sentences_[k][4];
    }
    return "";
  }
  std::string holder_of(const std::string& thing, size_t end) const {
    for (size_t k = end; k-- > 0;) {
      const auto& s = sentences_[k];
      if (std::find(s.begin(), s.end(), thing) == s.end()) continue;
      if (s[1] == "gave") return s[2];
      return s[1] == "lost" ? "" : s[0];
    }
    return "";
  }
  std::string origin_of(const std::string& thing, size_t end) const {
    for (size_t k = end; k-- > 0;) {
      if (sentences_[k][1] == "found" && sentences_[k][3] == thing) return place_of(sentences_[k][0], k);
    }
    return "";
  }
  std::string mood_of(const std::string& who, size_t end) const {
    static const std::map<std::string, std::string> of_actor = {
        {"found", "happy"}, {"gave", "proud"}, {"stole", "afraid"}, {"lost", "sad"}, {"had", "calm"}};
    for (size_t k = end; k-- > 0;) {
      const auto& s = sentences_[k];
      if (s[0] == who && s[1] != "went") return of_actor.at(s[1]);
      if (s[2] == who && s[1] == "gave") return "grateful";
      if (s[2] == who && s[1] == "stole") return "angry";
    }
    return "";
  }
  std::string last_thing_of(const std::string& who, size_t end) const {
    for (size_t k = end; k-- > 0;) {
      const auto& s = sentences_[k];
      std::string thing;
      if (s[0] == who && s[1] == "found") thing = s[3];
      if (s[0] == who && s[1] == "stole") thing = s[4];
      if (s[2] == who && s[1] == "gave") thing = s[4];
      if (!thing.empty() && holder_of(thing, end) == who) return thing;
    }
    return "";
  }
  // The nine texts of sentence i; "" stands for "none".
  std::vector<std::string> texts(size_t i) const {
    const auto& s = sentences_[i];
    const std::string &x = s[0], &verb = s[1], here = place_of(x, i), mood = mood_of(x, i);
    const auto either = [](const std::string& known, const std::string& text, const std::string& otherwise) {
      return known.empty() ? otherwise : text;
    };
    if (verb == "went") {
      const std::string thing = last_thing_of(x, i);
      return {either(here, "to leave " + here, "to get ready"),
              "to see " + s[4],
              "curious",
              either(thing, "to use " + thing + " there", "to look around"),
              x + " is at " + s[4],
              x + " feels " + (mood.empty() ? "calm" : mood),
              "",
              "",
              ""};
    }
    if (verb == "had") {
      return {"to be at " + here,
              "to feel better",
              either(mood, mood, "tired"),
              "to leave " + here,
              x + " is at " + here,
              x + " feels calm",
              "",
              "",
              ""};
    }
    if (verb == "found") {
      return {"to be at " + here,
              "to own " + s[3],
              "lucky",
              "to keep " + s[3] + " safe",
              x + " has " + s[3] + " from " + here,
              x + " feels happy",
              "",
              "",
              ""};
    }
    if (verb == "lost") {
      const std::string& o = s[3];
      return {"to have " + o + " from " + origin_of(o, i),
              "",
              "careless",
              either(here, "to search " + here, "to search everywhere"),
              either(here, o + " lies at " + here, o + " is gone"),
              x + " feels sad",
              "",
              "",
              ""};
    }
    const std::string &y = s[2], &o = s[4], there = place_of(y, i), from = o + " from " + origin_of(o, i);
    if (verb == "gave") {
      return {"to have " + from,
              "to please " + y,
              "kind",
              "to see " + y + either(there, " at " + there, " again"),
              y + " has " + from,
              x + " feels proud",
              "to thank " + x,
              y + " owns " + o,
              y + " feels grateful"};
    }
    return {"to meet " + y + either(there, " at " + there, ""),
            "to own " + o,
            "greedy",
            either(here, "to leave " + here, "to run away"),
            x + " has " + from,
            x + " feels afraid",
            "to get " + o + " back",
            y + " misses " + o,
            y + " feels angry"};
  }
  // What must hold for sentence i to be possible.
  bool possible(size_t i) const {
    const auto& s = sentences_[i];
    const std::string here = place_of(s[0], i);
    if (s[1] == "went") return here != s[4];
    if (s[1] == "had") return !here.empty() && mood_of(s[0], i) != "calm";
    if (s[1] == "gave") return holder_of(s[4], i) == s[0] && s[2] != s[0];
    if (s[1] == "stole") return holder_of(s[4], i) == s[2] && s[2] != s[0];
    if (s[1] == "lost") return holder_of(s[3], i) == s[0];
    if (here.empty() || !holder_of(s[3], i).empty()) return false;
    for (size_t k = i; k-- > 0;) {
      if (sentences_[k][1] == "lost" && sentences_[k][3] == s[3]) return place_of(sentences_[k][0], k) == here;
    }
    return true;
  }

 private:
  std::vector<std::vector<std::string>> sentences_;
};

std::string text_of(const StoryInference& inference) {
  const std::string text = story_text(inference.words);
  return text == "none" ? "" : text;
}

bool holds(const std::array<int64_t, kStoryInferenceWords>& words, int64_t word) {
  return std::find(words.begin(), words.end(), word) != words.end();
}

TEST(StoryGrammar, TruthsAreThoseOfASlowReplay) {
  const StoryGrammar grammar(1, "test", StoryPart::held_out);
  for (int64_t n = 0; n < kStories; ++n) {
    const Story story = grammar.story(n);
    const Replay replay(story);
    for (size_t i = 0; i < kStorySentences; ++i) {
      EXPECT_TRUE(replay.possible(i)) << n;
      std::vector<std::string> got;
      for (const StoryInference& inference : story.inferences.at(i)) got.push_back(text_of(inference));
      ASSERT_EQ(got, replay.texts(i)) << "story " << n << ", sentence " << i << ": "
                                      << story_text(story_sentence_words(story.sentences.at(i)));
    }
  }
}

// The fact of an inference is a word that its sentence does not say and the earlier inference does.
TEST(StoryGrammar, AnEarlierInferenceSaysWhatTheSentenceDoesNot) {
  const StoryGrammar grammar(2, "test", StoryPart::held_out);
  std::map<size_t, int64_t> by_relation, by_distance;
  int64_t cross = 0;
  for (int64_t n = 0; n < kStories; ++n) {
    const Story story = grammar.story(n);
    for (size_t i = 0; i < kStorySentences; ++i) {
      const auto sentence = story_sentence_words(story.sentences.at(i));
      for (size_t r = 0; r < kStoryRelations; ++r) {
        const StoryInference& inference = story.inferences.at(i).at(r);
        if (!inference.cross_sentence()) continue;
        const StoryFact& fact = inference.fact;
        ASSERT_LT(fact.sentence, static_cast<int64_t>(i));
        EXPECT_TRUE(holds(inference.words, fact.word));
        EXPECT_EQ(std::count(sentence.begin(), sentence.end(), fact.word), 0);
        EXPECT_TRUE(holds(story.inference(fact.sentence, fact.relation).words, fact.word));
        ++by_relation[r];
        ++by_distance[i - static_cast<size_t>(fact.sentence)];
        ++cross;
      }
    }
  }
  // Five relations depend on earlier sentences, at every distance, in about a quarter of all inferences.
  EXPECT_EQ(by_relation.size(), 5);
  EXPECT_EQ(by_distance.size(), 4);
  for (const auto& [relation, count] : by_relation) EXPECT_GT(count, kStories / 10) << relation;
  for (const auto& [distance, count] : by_distance) EXPECT_GT(count, kStories / 20) << distance;
  const double share = static_cast<double>(cross) / (kStories * kStorySentences * kStoryRelations);
  EXPECT_GT(share, 0.15);
  EXPECT_LT(share, 0.4);
}

TEST(StoryGrammar, AStoryIsAFunctionOfSeedStreamAndNumber) {
  const auto sentences = [](uint64_t seed, const char* stream, int64_t number) {
    return StoryGrammar(seed, stream, StoryPart::training).story(number).sentences;
  };
  EXPECT_EQ(sentences(1, "one", 7), sentences(1, "one", 7));
  EXPECT_NE(sentences(1, "one", 7), sentences(1, "one", 8));
  EXPECT_NE(sentences(1, "one", 7), sentences(2, "one", 7));
  EXPECT_NE(sentences(1, "one", 7), sentences(1, "other", 7));
}

// Even for the same seed and stream. Some stories of a part are equal.
TEST(StoryGrammar, NoStoryIsInBothParts) {
  const StoryGrammar training(0, "one", StoryPart::training), test(0, "one", StoryPart::held_out);
  std::set<std::string> texts;
  const auto text = [](const Story& story) {
    std::string all;
    for (const StorySentence& sentence : story.sentences) all += story_text(story_sentence_words(sentence));
    return all;
  };
  for (int64_t n = 0; n < 10 * kStories; ++n) texts.insert(text(training.story(n)));
  EXPECT_GT(texts.size(), 9 * kStories);
  for (int64_t n = 0; n < kStories; ++n) EXPECT_EQ(texts.count(text(test.story(n))), 0);
}

TEST(StoryGrammar, EveryEventAndEveryWordComesUp) {
  const StoryGrammar grammar(3, "test", StoryPart::held_out);
  std::map<StoryEvent, int64_t> events;
  std::set<int64_t> words;
  for (int64_t n = 0; n < kStories; ++n) {
    const Story story = grammar.story(n);
    EXPECT_EQ(story.sentences[0].event, StoryEvent::go);
    for (size_t i = 0; i < kStorySentences; ++i) {
      ++events[story.sentences.at(i).event];
      for (const int64_t word : story_sentence_words(story.sentences.at(i))) words.insert(word);
      for (const StoryInference& inference : story.inferences.at(i)) {
        words.insert(inference.words.begin(), inference.words.end());
      }
    }
  }
  for (const auto& [event, count] : events) EXPECT_GT(count, kStories / 5) << static_cast<int>(event);
  EXPECT_EQ(events.size(), 6);
  ASSERT_EQ(story_words().size(), story::count);
  // Neither the end nor the tokens of sentences and relations are in texts.
  EXPECT_EQ(static_cast<int64_t>(words.size()), story::count - 1 - kStorySentences - kStoryRelations);
  EXPECT_EQ(std::set<std::string>(story_words().begin(), story_words().end()).size(), story_words().size());
  const std::vector<int64_t> words_and_end = {story::person, story::went,  story::to,
                                              story::the,    story::place, story::end};
  EXPECT_EQ(story_text(words_and_end), "Ann went to the attic");
}

// Ann goes to the barn, finds an apple, gives it to Ben, who rests nowhere known; Ann goes to the attic.
Story told() {
  Story story;
  story.sentences = {StorySentence{StoryEvent::go, 0, -1, -1, 1}, StorySentence{StoryEvent::find, 0, -1, 0},
                     StorySentence{StoryEvent::give, 0, 1, 0}, StorySentence{StoryEvent::go, 0, -1, -1, 0},
                     StorySentence{StoryEvent::lose, 1, -1, 0}};
  for (size_t i = 0; i < kStorySentences; ++i) {
    EXPECT_TRUE(story.states.at(i).possible(story.sentences.at(i)));
    story.states.at(i + 1) = story.states.at(i);
    story.states.at(i + 1).apply(story.sentences.at(i), static_cast<int64_t>(i));
  }
  return story;
}

TEST(StoryGrammar, TextsAgreeWithTheStateWhereTheyAreTrue) {
  const Story story = told();
  const auto agrees = [&](int64_t sentence, StoryRelation relation, const std::string& text) {
    std::istringstream words(text);
    std::vector<int64_t> tokens;
    for (std::string word; words >> word;) {
      const auto found = std::find(story_words().begin(), story_words().end(), word);
      EXPECT_NE(found, story_words().end()) << word;
      tokens.push_back(found - story_words().begin());
    }
    tokens.push_back(story::end);
    return story_agrees(story, sentence, relation, tokens);
  };
  const auto effect = StoryRelation::x_effect, need = StoryRelation::x_need, want = StoryRelation::x_want;
  for (const char* text : {"Ann is at barn", "Ben has apple from barn", "Ben feels grateful", "Ann feels proud",
                           "Ben owns apple", "to leave barn"}) {
    EXPECT_TRUE(agrees(2, effect, text)) << text;
  }
  for (const char* text :
       {"Ann is at attic", "Ann has apple from barn", "Ben has apple from attic", "Ben feels proud", "Ann owns apple",
        "Ben is at barn", "apple lies at barn", "Ann is from barn", "barn is at Ann", "Ann is at", "apple is gone",
        "to", "to leave attic", "to use apple there"}) {
    EXPECT_FALSE(agrees(2, effect, text)) << text;
  }
  // A need is of the state before the sentence, a wish of that behind it.
  EXPECT_TRUE(agrees(3, need, "to leave barn") && agrees(3, want, "to leave attic"));
  EXPECT_FALSE(agrees(3, need, "to leave attic") || agrees(3, want, "to leave barn"));
  EXPECT_TRUE(agrees(2, need, "to have apple from barn") && agrees(1, want, "to use apple there"));
  EXPECT_TRUE(agrees(4, effect, "to see Ann at attic") && !agrees(4, effect, "to see Ann at barn"));
  // Ben's place is not known, so the apple lies nowhere that a text could say.
  EXPECT_FALSE(agrees(4, effect, "apple lies at attic"));
}

TEST(StoryGrammar, EveryInferenceAgrees) {
  const StoryGrammar grammar(4, "test", StoryPart::held_out);
  for (int64_t n = 0; n < 300; ++n) {
    const Story story = grammar.story(n);
    for (int64_t i = 0; i < kStorySentences; ++i) {
      for (int64_t r = 0; r < kStoryRelations; ++r) {
        const auto relation = static_cast<StoryRelation>(r);
        const StoryInference& inference = story.inference(i, relation);
        EXPECT_TRUE(story_agrees(story, i, relation, inference.words));
        EXPECT_FALSE(story_agrees(story, i, relation, {}));
        if (!inference.cross_sentence()) continue;
        // Texts that come from the state are true by the state too, not only as the inference itself.
        const auto other = relation == StoryRelation::x_need ? relation : StoryRelation::o_want;
        if (inference.words[1] != story::pad && inference.words[1] != story::feels) {
          EXPECT_TRUE(story_agrees(story, i, other, inference.words)) << story_text(inference.words);
        }
        // With another place it is not.
        auto changed = inference.words;
        for (int64_t& word : changed) {
          if (word == inference.fact.word && word >= story::place && word < story::mood) {
            word = story::place + (word - story::place + 1) % kStoryPlaces;
          }
        }
        EXPECT_EQ(story_agrees(story, i, relation, changed), changed == inference.words);
      }
    }
  }
}

}  // namespace
}  // namespace loci
