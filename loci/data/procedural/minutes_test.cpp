#include "loci/data/procedural/minutes.h"

#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <memory>
#include <vector>

#include "loci/base/check.h"
#include "tests/temporary_folder.h"

// Legend: N sentences, S salient ones among them, L words of a sentence.

namespace loci {
namespace {

struct Samples {
  std::vector<int64_t> words, summary;
  std::unique_ptr<bool[]> salient;
};

Samples samples_of(const Minutes& minutes, const MinutesOptions& options, int64_t first, int64_t count) {
  Samples found;
  found.words.resize(static_cast<size_t>(count * options.sentences * options.words()));
  found.summary.resize(static_cast<size_t>(count * options.salient));
  found.salient = std::make_unique<bool[]>(static_cast<size_t>(count * options.sentences));
  minutes.fill(first, count, found.words.data(), found.summary.data(), found.salient.get());
  return found;
}

// As a reader of the words alone finds it.
TEST(Minutes, TheSummaryListsThePayloadsBehindSalientMarkersInOrder) {
  for (const MinutesOptions& options :
       {MinutesOptions{}, MinutesOptions{.sentences = 5, .salient = 5, .markers = 2, .salient_markers = 1},
        MinutesOptions{.sentences = 9, .salient = 1, .payloads = 1, .noise = 0, .noise_words = 1}}) {
    constexpr int64_t count = 50;
    const Samples found = samples_of(Minutes(options, 3, "test"), options, 7, count);
    std::vector<int64_t> listed;
    for (size_t n = 0; n < static_cast<size_t>(count * options.sentences); ++n) {
      const int64_t* const sentence = found.words.data() + n * static_cast<size_t>(options.words());
      const int64_t marker = sentence[0] - MinutesOptions::kFirstMarker;
      EXPECT_TRUE(marker >= 0 && marker < options.markers);
      EXPECT_EQ(found.salient[n], marker < options.salient_markers);
      const int64_t payload = sentence[1] - MinutesOptions::kFirstMarker - options.markers;
      EXPECT_TRUE(payload >= 0 && payload < options.payloads);
      for (int64_t w = 2; w < options.words(); ++w) {
        EXPECT_GE(sentence[w], MinutesOptions::kFirstMarker + options.markers + options.payloads);
        EXPECT_LT(sentence[w], options.vocabulary());
      }
      if (found.salient[n]) listed.push_back(sentence[1]);
    }
    EXPECT_EQ(found.summary, listed);
  }
}

TEST(Minutes, ASampleIsAFunctionOfSeedStreamAndNumber) {
  const MinutesOptions options;
  const Minutes minutes(options, 3, "test");
  const auto words = [&](const Minutes& of, int64_t sample) { return samples_of(of, options, sample, 1).words; };
  const Samples together = samples_of(minutes, options, 4, 2);
  const std::vector<int64_t> second(together.words.begin() + options.sentences * options.words(), together.words.end());
  EXPECT_EQ(words(minutes, 5), second);
  EXPECT_NE(words(minutes, 4), second);
  EXPECT_NE(words(Minutes(options, 4, "test"), 5), second);
  EXPECT_NE(words(Minutes(options, 3, "other"), 5), second);
}

// Places, markers and payloads are all used, and about equally often: counts of uniform draws within five deviations.
TEST(Minutes, PlacesMarkersAndPayloadsAreUniform) {
  const MinutesOptions options;
  constexpr int64_t count = 2000;
  const Samples found = samples_of(Minutes(options, 0, "test"), options, 0, count);
  std::map<int64_t, double> places, markers, payloads;
  for (int64_t n = 0; n < count * options.sentences; ++n) {
    if (found.salient[static_cast<size_t>(n)]) places[n % options.sentences] += 1;
    markers[found.words[static_cast<size_t>(n * options.words())]] += 1;
  }
  for (const int64_t payload : found.summary) payloads[payload] += 1;
  const auto expect_near = [](double got, double expected) { EXPECT_NEAR(got, expected, 5 * std::sqrt(expected)); };
  EXPECT_EQ(places.size(), 64);
  for (const auto& [place, times] : places) expect_near(times, count * 12.0 / 64);
  EXPECT_EQ(markers.size(), 16);
  for (const auto& [marker, times] : markers) expect_near(times, marker < 3 + 4 ? count * 12.0 / 4 : count * 52.0 / 12);
  EXPECT_EQ(payloads.size(), 32);
  for (const auto& [payload, times] : payloads) expect_near(times, count * 12.0 / 32);
}

TEST(Minutes, RefusesOptionsThatAreNone) {
  expect_error(ExitCode::usage, "config: data.salient must be at most the 4 sentences, got 5",
               [] { Minutes({.sentences = 4, .salient = 5}, 0, ""); });
  expect_error(ExitCode::usage, "config: data.salient_markers must be less than the 16 markers, got 16",
               [] { Minutes({.salient_markers = 16}, 0, ""); });
}

}  // namespace
}  // namespace loci
