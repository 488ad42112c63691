// Legend: K ways (characters), n shots (support drawings of each), q queries of each.
#include "loci/data/image/episodes.h"

#include <numeric>

#include "loci/base/check.h"
#include "loci/base/random_sequence.h"

namespace loci {
namespace {

constexpr uint64_t kDrawsOfEpisode = uint64_t{1} << 32;  // more than any takes

// The first `count` of 0 .. all-1 in a random order.
std::vector<int64_t> drawn(int64_t all, int64_t count, RandomSequence& random) {
  std::vector<int64_t> order(static_cast<size_t>(all));
  std::iota(order.begin(), order.end(), 0);
  random.shuffle(order);
  order.resize(static_cast<size_t>(count));
  return order;
}

}  // namespace

void EpisodeOptions::fields(ConfigFields& f) {
  constexpr int64_t most = 1 << 12;
  f.field("ways", ways, "characters of a task", {.minimum = 2, .maximum = most});
  f.field("shots", shots, "drawings of each character in the support set", {.minimum = 1, .maximum = most});
  f.field("queries", queries, "drawings of each character that are asked for", {.minimum = 1, .maximum = most});
}

EpisodeSampler::EpisodeSampler(std::string_view who, const CharacterDrawings& data, const EpisodeOptions& options,
                               bool turned, uint64_t seed)
    : data_(data), options_(options), turned_(turned), seed_(seed) {
  if (std::ssize(data.characters) < options.ways) {
    fail(ExitCode::input, who, fmt::format("there must be {} characters, as many as ways", options.ways),
         fmt::to_string(data.characters.size()));
  }
  for (const Character& character : data.characters) {
    if (character.drawings >= options.shots + options.queries) continue;
    fail(ExitCode::input, who,
         fmt::format("{} must have {} drawings for {} shots and {} queries", character.name,
                     options.shots + options.queries, options.shots, options.queries),
         fmt::to_string(character.drawings));
  }
}

Episode EpisodeSampler::at(int64_t number) const {
  RandomSequence random(CounterRandom(seed_, "episodes"), static_cast<uint64_t>(number) * kDrawsOfEpisode);
  Episode episode;
  for (const int64_t which : drawn(std::ssize(data_.characters), options_.ways, random)) {
    const Character& character = data_.characters[static_cast<size_t>(which)];
    const auto drawings = drawn(character.drawings, options_.shots + options_.queries, random);
    for (int64_t i = 0; i < std::ssize(drawings); ++i) {
      (i < options_.shots ? episode.support : episode.queries)
          .push_back(character.first + drawings[static_cast<size_t>(i)]);
    }
    episode.turns.push_back(turned_ ? static_cast<int64_t>(random.below(4)) : 0);
  }
  return episode;
}

}  // namespace loci
