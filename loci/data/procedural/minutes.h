// Minutes of a meeting in miniature: a long text of which few sentences matter, and a summary that repeats what those
// say, in order. Which matter is never told: data for small memories (the set is ours).
//
// Legend: N sentences, S salient ones among them, L words of a sentence.
//
//   a sentence    marker, payload, noise ..         one marker, one payload, L - 2 words of noise
//   salient       S of the N places, uniform. Their markers are uniform over the first `salient_markers`, the others'
//                 over the rest
//   payload       uniform, with repetition, for every sentence
//   summary       the payloads of the salient sentences, in the order of the text
//
// Words are numbers: 0 none, 1 begin, 2 end, then markers, payloads, noise. A sample is a pure function of (seed,
// stream, its number).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "loci/base/config_fields.h"
#include "loci/base/random.h"

namespace loci {

// [data]
struct MinutesOptions {
  static constexpr int64_t kBegin = 1;  // before a summary
  static constexpr int64_t kEnd = 2;    // behind it
  static constexpr int64_t kFirstMarker = 3;
  int64_t sentences = 64;       // N
  int64_t salient = 12;         // S
  int64_t markers = 16;         // kinds of them
  int64_t salient_markers = 4;  // that mean a sentence matters
  int64_t payloads = 32;        // kinds of them
  int64_t noise = 3;            // words of it in a sentence
  int64_t noise_words = 32;     // kinds of them
  void fields(ConfigFields& f);

  void check() const;                          // throws Error (usage)
  int64_t words() const { return 2 + noise; }  // L
  int64_t vocabulary() const { return kFirstMarker + markers + payloads + noise_words; }
  std::string text() const;  // "12 of 64 sentences of 5 words, 32 payloads"
};

class Minutes {
 public:
  // Throws Error (usage) for options that are none.
  Minutes(const MinutesOptions& options, uint64_t seed, std::string_view stream);

  // Samples first .. first + count - 1: words [count, N, L], summary [count, S], salient [count, N].
  void fill(int64_t first, int64_t count, int64_t* words, int64_t* summary, bool* salient) const;

 private:
  MinutesOptions options_;
  uint64_t seed_;
  CounterRandom streams_;  // of samples
};

}  // namespace loci
