#include "loci/data/procedural/minutes.h"

#include <algorithm>
#include <vector>

#include "loci/base/check.h"
#include "loci/base/random_sequence.h"

namespace loci {

void MinutesOptions::fields(ConfigFields& f) {
  constexpr int64_t most = 1 << 14;
  f.field("sentences", sentences, "of a text", {.minimum = 1, .maximum = most});
  f.field("salient", salient, "sentences whose payloads the summary lists", {.minimum = 1, .maximum = most});
  f.field("markers", markers, "kinds of first words", {.minimum = 2, .maximum = most});
  f.field("salient_markers", salient_markers, "kinds of first words that mean a sentence matters",
          {.minimum = 1, .maximum = most});
  f.field("payloads", payloads, "kinds of second words", {.minimum = 1, .maximum = most});
  f.field("noise", noise, "words of noise in a sentence", {.minimum = 0, .maximum = 1024});
  f.field("noise_words", noise_words, "kinds of words of noise", {.minimum = 1, .maximum = most});
}

void MinutesOptions::check() const {
  if (salient > sentences) {
    fail(ExitCode::usage, "config", fmt::format("data.salient must be at most the {} sentences", sentences),
         fmt::to_string(salient));
  }
  if (salient_markers >= markers) {
    fail(ExitCode::usage, "config", fmt::format("data.salient_markers must be less than the {} markers", markers),
         fmt::to_string(salient_markers));
  }
}

std::string MinutesOptions::text() const {
  return fmt::format("{} of {} sentences of {} words, {} payloads, {} of {} markers, {} words of noise", salient,
                     sentences, words(), payloads, salient_markers, markers, noise_words);
}

Minutes::Minutes(const MinutesOptions& options, uint64_t seed, std::string_view stream)
    : options_(options), seed_(seed), streams_(seed, stream) {
  options.check();
}

void Minutes::fill(int64_t first, int64_t count, int64_t* words, int64_t* summary, bool* salient) const {
  const int64_t N = options_.sentences, S = options_.salient;
  const auto kinds = [](int64_t number) { return static_cast<uint64_t>(number); };
  const int64_t first_payload = MinutesOptions::kFirstMarker + options_.markers;
  for (int64_t i = 0; i < count; ++i, salient += N) {
    RandomSequence random(CounterRandom(seed_, streams_.bits(static_cast<uint64_t>(first + i))));
    std::vector<uint8_t> matters(static_cast<size_t>(N), 0);
    std::fill_n(matters.begin(), S, uint8_t{1});
    random.shuffle(matters);
    for (int64_t n = 0; n < N; ++n) {
      salient[n] = matters[static_cast<size_t>(n)] != 0;
      const int64_t marker =
          salient[n] ? static_cast<int64_t>(random.below(kinds(options_.salient_markers)))
                     : options_.salient_markers +
                           static_cast<int64_t>(random.below(kinds(options_.markers - options_.salient_markers)));
      const int64_t payload = first_payload + static_cast<int64_t>(random.below(kinds(options_.payloads)));
      *words++ = MinutesOptions::kFirstMarker + marker;
      *words++ = payload;
      for (int64_t w = 0; w < options_.noise; ++w) {
        *words++ = first_payload + options_.payloads + static_cast<int64_t>(random.below(kinds(options_.noise_words)));
      }
      if (salient[n]) *summary++ = payload;
    }
  }
}

}  // namespace loci
