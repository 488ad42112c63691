#include "loci/data/procedural/story_words.h"

#include <fmt/format.h>

namespace loci {
namespace {

constexpr std::array<const char*, kStoryRelations> kRelationNames = {"xNeed",  "xIntent", "xAttr",   "xWant", "xEffect",
                                                                     "xReact", "oWant",   "oEffect", "oReact"};
constexpr std::array<const char*, kStoryPersons> kPersonNames = {"Ann", "Ben", "Cora", "Dan", "Eve", "Finn",
                                                                 "Gus", "Hal", "Ida",  "Jim", "Kay", "Leo"};
constexpr std::array<const char*, kStoryObjects> kObjectNames = {
    "apple", "ball", "book", "coin", "cup",  "drum", "flute", "hat",   "kite",  "key",
    "lamp",  "map",  "pen",  "ring", "rope", "shoe", "spoon", "sword", "watch", "whistle"};
constexpr std::array<const char*, kStoryPlaces> kPlaceNames = {"attic",  "barn",    "cellar", "forest",
                                                               "garden", "kitchen", "market", "river"};
constexpr std::array<const char*, kStoryMoods> kMoodNames = {"happy", "proud",    "afraid", "sad",
                                                             "calm",  "grateful", "angry"};
constexpr std::array<const char*, story::count - story::period> kOtherNames = {
    ".",          "a",     "again", "around", "at",     "away",  "back", "be",    "better", "careless", "curious",
    "everywhere", "feel",  "feels", "found",  "from",   "gave",  "get",  "gone",  "greedy", "had",      "has",
    "have",       "is",    "keep",  "kind",   "leave",  "lies",  "look", "lost",  "lucky",  "meet",     "misses",
    "none",       "'s",    "own",   "owns",   "please", "ready", "rest", "run",   "safe",   "search",   "see",
    "stole",      "thank", "the",   "then",   "there",  "tired", "to",   "today", "use",    "went"};

template <class Names>
void append(std::vector<std::string>& words, const Names& names) {
  words.insert(words.end(), names.begin(), names.end());
}

std::vector<std::string> all_words() {
  std::vector<std::string> words = {"<pad>", "<end>"};
  for (int64_t i = 1; i <= kStorySentences; ++i) words.push_back(fmt::format("<sentence {}>", i));
  for (const char* name : kRelationNames) words.push_back(fmt::format("<{}>", name));
  append(words, kPersonNames);
  append(words, kObjectNames);
  append(words, kPlaceNames);
  append(words, kMoodNames);
  append(words, kOtherNames);
  return words;
}

}  // namespace

const std::vector<std::string>& story_words() {
  static const std::vector<std::string> words = all_words();
  return words;
}

std::string story_text(std::span<const int64_t> words) {
  std::string text;
  for (const int64_t word : words) {
    if (word == story::pad || word == story::end) continue;
    text += (text.empty() ? "" : " ") + story_words().at(static_cast<size_t>(word));
  }
  return text;
}

}  // namespace loci
