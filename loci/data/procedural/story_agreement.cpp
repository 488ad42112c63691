// Whether a text is true in a story.
#include <algorithm>
#include <optional>
#include <vector>

#include "loci/data/procedural/story_grammar.h"

namespace loci {
namespace {

using Text = std::span<const int64_t>;

// A word's number among those of its kind, if it is of that kind.
std::optional<size_t> number_in(int64_t word, int64_t first, int64_t count) {
  if (word < first || word >= first + count) return std::nullopt;
  return static_cast<size_t>(word - first);
}
std::optional<size_t> person_of(int64_t word) {
  return number_in(word, story::person, kStoryPersons);
}
std::optional<size_t> object_of(int64_t word) {
  return number_in(word, story::object, kStoryObjects);
}

bool stands_at(const StoryState& state, size_t person, int64_t word) {
  const StoryValue& at = state.persons.at(person).place;
  return at.known() && story::place + at.value == word;
}

bool holds(const StoryState& state, size_t person, size_t object) {
  return state.objects.at(object).holder.value == static_cast<int64_t>(person);
}

bool holds_from(const StoryState& state, size_t person, size_t object, int64_t word) {
  return holds(state, person, object) && story::place + state.objects.at(object).origin.value == word;
}

// "to VERB ..." of the actor. `then`: the state that the relation speaks of.
bool wish_agrees(const StoryState& then, size_t actor, Text t) {
  const int64_t verb = t[1];
  if (t.size() == 3 && (verb == story::leave || verb == story::search)) return stands_at(then, actor, t[2]);
  if (t.size() == 4 && verb == story::be && t[2] == story::at) return stands_at(then, actor, t[3]);
  if (t.size() == 4 && verb == story::use && t[3] == story::there) {
    return object_of(t[2]) && holds(then, actor, *object_of(t[2]));
  }
  if (t.size() != 5) return false;
  if (verb == story::have && t[3] == story::from) {
    return object_of(t[2]) && holds_from(then, actor, *object_of(t[2]), t[4]);
  }
  const bool of_other = (verb == story::meet || verb == story::see) && t[3] == story::at;
  return of_other && person_of(t[2]) && stands_at(then, *person_of(t[2]), t[4]);
}

// "SUBJECT VERB ...".
bool statement_agrees(const StoryState& after, Text t) {
  const auto person = person_of(t[0]), object = object_of(t[0]);
  if (t.size() == 4 && t[2] == story::at) {
    if (person && t[1] == story::is) return stands_at(after, *person, t[3]);
    if (!object || t[1] != story::lies) return false;
    const int64_t lies_at = after.objects.at(*object).lies_at;
    return lies_at >= 0 && story::place + lies_at == t[3];
  }
  if (!person) return false;
  if (t.size() == 5 && t[1] == story::has && t[3] == story::from) {
    return object_of(t[2]) && holds_from(after, *person, *object_of(t[2]), t[4]);
  }
  if (t.size() != 3) return false;
  if (t[1] == story::owns) return object_of(t[2]) && holds(after, *person, *object_of(t[2]));
  const StoryValue& mood = after.persons.at(*person).mood;
  return t[1] == story::feels && mood.known() && story::mood + mood.value == t[2];
}

}  // namespace

bool story_agrees(const Story& story, int64_t sentence, StoryRelation relation, Text text) {
  const auto stops = [](int64_t word) { return word == story::pad || word == story::end; };
  const Text t = text.first(static_cast<size_t>(std::find_if(text.begin(), text.end(), stops) - text.begin()));
  const auto& words = story.inference(sentence, relation).words;
  const Text truth =
      Text(words).first(static_cast<size_t>(std::find_if(words.begin(), words.end(), stops) - words.begin()));
  if (std::equal(t.begin(), t.end(), truth.begin(), truth.end())) return true;
  if (t.size() < 3) return false;
  const auto number = static_cast<size_t>(sentence);
  const auto actor = static_cast<size_t>(story.sentences.at(number).actor);
  const StoryState& after = story.states.at(number + 1);
  if (t[0] != story::to) return statement_agrees(after, t);
  return wish_agrees(relation == StoryRelation::x_need ? story.states.at(number) : after, actor, t);
}

}  // namespace loci
