// Tasks of few examples: some characters, some drawings of each as a support set, others as queries.
//
// Legend: K ways (characters), n shots (support drawings of each), q queries of each.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "loci/base/config_fields.h"
#include "loci/data/image/character_folder.h"

namespace loci {

struct EpisodeOptions {
  int64_t ways = 20;    // K
  int64_t shots = 10;   // n
  int64_t queries = 3;  // q
  void fields(ConfigFields& f);

  int64_t support() const { return ways * shots; }
  int64_t asked() const { return ways * queries; }
};

// Numbers of drawings, character by character.
struct Episode {
  std::vector<int64_t> support;  // [K * n]
  std::vector<int64_t> queries;  // [K * q]
  std::vector<int64_t> turns;    // [K] quarter turns that all drawings of a character get; 0 unless turned
};

class EpisodeSampler {
 public:
  // `who` names the settings in messages. Throws Error (input) when there are fewer characters than ways, and for the
  // first character with fewer drawings than shots and queries together. `data` must live as long as the sampler.
  EpisodeSampler(std::string_view who, const CharacterDrawings& data, const EpisodeOptions& options, bool turned,
                 uint64_t seed);

  // A pure function of (seed, number).
  Episode at(int64_t number) const;

 private:
  const CharacterDrawings& data_;
  EpisodeOptions options_;
  bool turned_;
  uint64_t seed_;
};

}  // namespace loci
