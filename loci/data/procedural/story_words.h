// The words of the story grammar (story_grammar.h): a token each.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace loci {

constexpr int64_t kStorySentences = 5;
constexpr int64_t kStoryRelations = 9;
constexpr int64_t kStoryPersons = 12;
constexpr int64_t kStoryObjects = 20;
constexpr int64_t kStoryPlaces = 8;
constexpr int64_t kStoryMoods = 7;

// Tokens of kinds: that of the first one; the others follow it.
namespace story {
// clang-format off: function words share lines
enum Word : int64_t {
  pad,  // fills texts up
  end,  // of an inference
  sentence_token,
  relation_token = sentence_token + kStorySentences,
  person = relation_token + kStoryRelations,
  object = person + kStoryPersons,
  place = object + kStoryObjects,
  mood = place + kStoryPlaces,
  period = mood + kStoryMoods,
  a, again, around, at, away, back, be, better, careless, curious, everywhere, feel, feels, found, from, gave, get,
  gone, greedy, had, has, have, is, keep, kind, leave, lies, look, lost, lucky, meet, misses, none, of_whom, own,
  owns, please, ready, rest, run, safe, search, see, stole, thank, the, then, there, tired, to, today, use, went,
  count
};
// clang-format on
}  // namespace story

// Of every token, in the order of their numbers.
const std::vector<std::string>& story_words();
// Words with a space between, without padding and end.
std::string story_text(std::span<const int64_t> words);

}  // namespace loci
