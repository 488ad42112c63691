#include "loci/data/procedural/story_grammar.h"

#include <algorithm>
#include <initializer_list>
#include <vector>

#include "loci/base/random_sequence.h"

namespace loci {
namespace {

using Inferences = std::array<StoryInference, kStoryRelations>;
using Words = std::initializer_list<int64_t>;

enum StoryMood : int64_t { happy, proud, afraid, sad, calm, grateful, angry };

constexpr size_t kCast = 3;    // persons of a story
constexpr size_t kThings = 2;  // objects
// Of go, find, give, steal, lose and rest: how often they are drawn where all are possible.
constexpr std::array<size_t, 6> kEventWeights = {2, 3, 3, 3, 2, 1};
constexpr uint64_t kHeldOutShare = 8;  // one of so many

int64_t person(int64_t number) {
  return story::person + number;
}
int64_t object(int64_t number) {
  return story::object + number;
}
int64_t place(int64_t number) {
  return story::place + number;
}
int64_t mood(int64_t number) {
  return story::mood + number;
}

StoryInference say(Words words, const StoryFact& fact = {}) {
  StoryInference inference;
  std::copy(words.begin(), words.end(), inference.words.begin());
  inference.fact = fact;
  return inference;
}

// What a sentence sees of the state before it.
struct Before {
  const StoryState& state;
  const StorySentence& sentence;

  const StoryState::Person& of(int64_t number) const { return state.persons.at(static_cast<size_t>(number)); }
  const StoryState::Object& thing() const { return state.objects.at(static_cast<size_t>(sentence.object)); }

  // Texts that end with a place that an earlier going decided; else `without`.
  StoryInference with_place_of(int64_t number, Words words, Words without) const {
    const StoryValue& at = of(number).place;
    return at.known() ? ending(words, {at.by, StoryRelation::x_effect, place(at.value)}) : say(without);
  }
  StoryInference with_origin(Words words) const {
    const StoryValue& origin = thing().origin;
    return ending(words, {origin.by, StoryRelation::x_effect, place(origin.value)});
  }
  StoryInference with_mood(Words words, Words without) const {
    const StoryState::Person& actor = of(sentence.actor);
    if (!actor.mood.known()) return say(without);
    const auto relation = actor.mood_of_other ? StoryRelation::o_react : StoryRelation::x_react;
    return ending(words, {actor.mood.by, relation, mood(actor.mood.value)});
  }
  // The object that the actor got last, of those they have.
  StoryInference with_thing(Words words, Words behind, Words without) const {
    StoryFact fact;
    for (int64_t o = 0; o < kStoryObjects; ++o) {
      const StoryValue& holder = state.objects.at(static_cast<size_t>(o)).holder;
      if (holder.value == sentence.actor && holder.by > fact.sentence) {
        fact = {holder.by, StoryRelation::x_effect, object(o)};
      }
    }
    if (fact.sentence < 0) return say(without);
    StoryInference inference = ending(words, fact);
    std::copy(behind.begin(), behind.end(), inference.words.begin() + static_cast<int64_t>(words.size()) + 1);
    return inference;
  }

 private:
  static StoryInference ending(Words words, const StoryFact& fact) {
    StoryInference inference = say(words, fact);
    inference.words.at(words.size()) = fact.word;
    return inference;
  }
};

Inferences of_going(const Before& before) {
  using namespace story;
  const int64_t x = loci::person(before.sentence.actor), p = loci::place(before.sentence.place);
  return {before.with_place_of(before.sentence.actor, {to, leave}, {to, get, ready}),
          say({to, see, p}),
          say({curious}),
          before.with_thing({to, use}, {there}, {to, look, around}),
          say({x, is, at, p}),
          before.with_mood({x, feels}, {x, feels, loci::mood(calm)}),
          say({none}),
          say({none}),
          say({none})};
}

Inferences of_finding(const Before& before) {
  using namespace story;
  const StorySentence& s = before.sentence;
  const int64_t x = loci::person(s.actor), o = loci::object(s.object);
  return {before.with_place_of(s.actor, {to, be, at}, {}),
          say({to, own, o}),
          say({lucky}),
          say({to, keep, o, safe}),
          before.with_place_of(s.actor, {x, has, o, from}, {}),
          say({x, feels, loci::mood(happy)}),
          say({none}),
          say({none}),
          say({none})};
}

Inferences of_giving(const Before& before) {
  using namespace story;
  const StorySentence& s = before.sentence;
  const int64_t x = loci::person(s.actor), y = loci::person(s.other), o = loci::object(s.object);
  return {before.with_origin({to, have, o, from}),
          say({to, please, y}),
          say({kind}),
          before.with_place_of(s.other, {to, see, y, at}, {to, see, y, again}),
          before.with_origin({y, has, o, from}),
          say({x, feels, loci::mood(proud)}),
          say({to, thank, x}),
          say({y, owns, o}),
          say({y, feels, loci::mood(grateful)})};
}

Inferences of_stealing(const Before& before) {
  using namespace story;
  const StorySentence& s = before.sentence;
  const int64_t x = loci::person(s.actor), y = loci::person(s.other), o = loci::object(s.object);
  return {before.with_place_of(s.other, {to, meet, y, at}, {to, meet, y}),
          say({to, own, o}),
          say({greedy}),
          before.with_place_of(s.actor, {to, leave}, {to, run, away}),
          before.with_origin({x, has, o, from}),
          say({x, feels, loci::mood(afraid)}),
          say({to, get, o, back}),
          say({y, misses, o}),
          say({y, feels, loci::mood(angry)})};
}

Inferences of_losing(const Before& before) {
  using namespace story;
  const StorySentence& s = before.sentence;
  const int64_t x = loci::person(s.actor), o = loci::object(s.object);
  return {before.with_origin({to, have, o, from}),
          say({none}),
          say({careless}),
          before.with_place_of(s.actor, {to, search}, {to, search, everywhere}),
          before.with_place_of(s.actor, {o, lies, at}, {o, is, gone}),
          say({x, feels, loci::mood(sad)}),
          say({none}),
          say({none}),
          say({none})};
}

Inferences of_resting(const Before& before) {
  using namespace story;
  const int64_t actor = before.sentence.actor, x = loci::person(actor);
  return {before.with_place_of(actor, {to, be, at}, {}),
          say({to, feel, better}),
          before.with_mood({}, {tired}),
          before.with_place_of(actor, {to, leave}, {}),
          before.with_place_of(actor, {x, is, at}, {}),
          say({x, feels, loci::mood(calm)}),
          say({none}),
          say({none}),
          say({none})};
}

Inferences inferences_of(const Before& before) {
  switch (before.sentence.event) {
    case StoryEvent::go:
      return of_going(before);
    case StoryEvent::find:
      return of_finding(before);
    case StoryEvent::give:
      return of_giving(before);
    case StoryEvent::steal:
      return of_stealing(before);
    case StoryEvent::lose:
      return of_losing(before);
    case StoryEvent::rest:
      break;
  }
  return of_resting(before);
}

// Different numbers below `bound`.
template <size_t N>
std::array<int64_t, N> draw_different(RandomSequence& random, int64_t bound) {
  std::array<int64_t, N> drawn = {};
  for (size_t i = 0; i < N; ++i) {
    do {
      drawn.at(i) = static_cast<int64_t>(random.below(static_cast<uint64_t>(bound)));
    } while (std::find(drawn.begin(), drawn.begin() + static_cast<int64_t>(i), drawn.at(i)) !=
             drawn.begin() + static_cast<int64_t>(i));
  }
  return drawn;
}

using Cast = std::array<int64_t, kCast>;
using Things = std::array<int64_t, kThings>;

std::vector<StorySentence> possible_sentences(const StoryState& state, StoryEvent event, const Cast& cast,
                                              const Things& things) {
  std::vector<StorySentence> all;
  const auto add = [&](const StorySentence& sentence) {
    if (state.possible(sentence)) all.push_back(sentence);
  };
  for (const int64_t actor : cast) {
    if (event == StoryEvent::rest) add({event, actor});
    if (event == StoryEvent::go) {
      for (int64_t p = 0; p < kStoryPlaces; ++p) add({event, actor, -1, -1, p});
    }
    for (const int64_t thing : things) {
      if (event == StoryEvent::find || event == StoryEvent::lose) add({event, actor, -1, thing});
      for (const int64_t other : cast) {
        if (event == StoryEvent::give || event == StoryEvent::steal) add({event, actor, other, thing});
      }
    }
  }
  return all;
}

}  // namespace

bool StoryState::possible(const StorySentence& s) const {
  const Person& actor = persons.at(static_cast<size_t>(s.actor));
  if (s.event == StoryEvent::go) return s.place != actor.place.value;
  if (s.event == StoryEvent::rest) return actor.place.known() && actor.mood.value != calm;
  const Object& thing = objects.at(static_cast<size_t>(s.object));
  if (s.event == StoryEvent::find) {
    const bool here = !thing.found || (thing.lies_at >= 0 && thing.lies_at == actor.place.value);
    return actor.place.known() && !thing.holder.known() && here;
  }
  if (s.event == StoryEvent::lose) return thing.holder.value == s.actor;
  if (s.other == s.actor) return false;
  return thing.holder.value == (s.event == StoryEvent::give ? s.actor : s.other);
}

void StoryState::apply(const StorySentence& s, int64_t number) {
  const auto feel = [&](int64_t who, int64_t value, bool of_other) {
    Person& one = persons.at(static_cast<size_t>(who));
    one.mood = {value, number};
    one.mood_of_other = of_other;
  };
  Person& actor = persons.at(static_cast<size_t>(s.actor));
  if (s.event == StoryEvent::go) actor.place = {s.place, number};
  if (s.event == StoryEvent::rest) feel(s.actor, calm, false);
  if (s.object < 0) return;
  Object& thing = objects.at(static_cast<size_t>(s.object));
  switch (s.event) {
    case StoryEvent::find:
      thing = {.holder = {s.actor, number}, .origin = {actor.place.value, number}, .lies_at = -1, .found = true};
      feel(s.actor, happy, false);
      break;
    case StoryEvent::give:
      thing.holder = {s.other, number};
      feel(s.actor, proud, false);
      feel(s.other, grateful, true);
      break;
    case StoryEvent::steal:
      thing.holder = {s.actor, number};
      feel(s.actor, afraid, false);
      feel(s.other, angry, true);
      break;
    case StoryEvent::lose:
      thing.holder = {};
      thing.lies_at = actor.place.value;
      feel(s.actor, sad, false);
      break;
    case StoryEvent::go:
    case StoryEvent::rest:
      break;
  }
}

namespace {

Story draw_story(RandomSequence& random) {
  const Cast cast = draw_different<kCast>(random, kStoryPersons);
  const Things things = draw_different<kThings>(random, kStoryObjects);
  Story story;
  for (size_t i = 0; i < kStorySentences; ++i) {
    std::vector<std::vector<StorySentence>> choices;  // a kind of event that is possible, as often as its weight
    for (size_t event = 0; event < kEventWeights.size(); ++event) {
      const auto all = possible_sentences(story.states.at(i), static_cast<StoryEvent>(event), cast, things);
      if (!all.empty()) choices.insert(choices.end(), kEventWeights.at(event), all);
    }
    const std::vector<StorySentence>& kind = choices[random.below(choices.size())];
    const StorySentence& sentence = story.sentences.at(i) = kind[random.below(kind.size())];
    story.inferences.at(i) = inferences_of({story.states.at(i), sentence});
    story.states.at(i + 1) = story.states.at(i);
    story.states.at(i + 1).apply(sentence, static_cast<int64_t>(i));
  }
  return story;
}

}  // namespace

bool is_held_out_story(const Story& story) {
  std::string text;
  for (const StorySentence& sentence : story.sentences) text += story_text(story_sentence_words(sentence));
  return stream_of(text) % kHeldOutShare == 0;
}

Story StoryGrammar::story(int64_t number) const {
  RandomSequence random(CounterRandom(seed_, streams_.bits(static_cast<uint64_t>(number))));
  Story story = draw_story(random);
  while (is_held_out_story(story) != (part_ == StoryPart::held_out)) story = draw_story(random);
  return story;
}

std::array<int64_t, kStorySentenceWords> story_sentence_words(const StorySentence& s) {
  using namespace story;
  const int64_t x = loci::person(s.actor), y = loci::person(s.other), o = loci::object(s.object);
  switch (s.event) {
    case StoryEvent::go:
      return {x, went, to, the, loci::place(s.place), period};
    case StoryEvent::find:
      return {x, found, a, o, there, period};
    case StoryEvent::give:
      return {x, gave, y, the, o, period};
    case StoryEvent::steal:
      return {x, stole, y, of_whom, o, period};
    case StoryEvent::lose:
      return {x, lost, the, o, today, period};
    case StoryEvent::rest:
      break;
  }
  return {x, had, a, rest, then, period};
}

}  // namespace loci
