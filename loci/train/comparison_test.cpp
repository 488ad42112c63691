#include "loci/train/comparison.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <string>

#include "loci/base/durable_file.h"
#include "loci/train/text_table.h"
#include "tests/temporary_folder.h"

namespace loci {
namespace {

using testing::HasSubstr;
using testing::Not;

RunResult result_of(const std::string& arm, int64_t seed, double value, const std::string& as_long_as = "") {
  RunResult result;
  result.arm = arm;
  result.seed = seed;
  result.as_long_as = as_long_as;
  result.units = 1000;
  result.measures = {{"distance", value}};
  return result;
}

Summary summary_of(std::vector<RunResult> runs, bool lower_is_better = true) {
  return {"tiny", "images", {{"distance", 3, lower_is_better, "cm", "how far it is off"}}, std::move(runs)};
}

Summary three_arms() {
  return summary_of({result_of("base", 0, 4.0), result_of("wide", 0, 3.5), result_of("timed", 0, 3.0, "wide"),
                     result_of("base", 1, 5.0), result_of("wide", 1, 4.7), result_of("timed", 1, 4.0, "wide")});
}

TEST(Comparison, MeansSpreadsAndPairedDifferences) {
  const std::string text = comparison_text(three_arms());
  EXPECT_THAT(text, HasSubstr("At equal training images (mean"));
  EXPECT_THAT(text, HasSubstr("4.500 ± 0.707"));
  EXPECT_THAT(text, HasSubstr("-0.400 ± 0.141"));  // wide against base
  EXPECT_THAT(text, HasSubstr("timed trained for as long as wide"));
  EXPECT_THAT(text, HasSubstr("-0.600 ± 0.141"));  // timed against wide
  EXPECT_THAT(text, HasSubstr("distance      how far it is off; lower is better\n"));
  EXPECT_THAT(text, HasSubstr("vs base       difference in distance to base with the same seed\n"));
  EXPECT_THAT(text, HasSubstr("vs wide       difference in distance to wide with the same seed\n"));
}

TEST(Comparison, TheVerdictStandsBeforeTheTables) {
  EXPECT_TRUE(comparison_text(three_arms()).starts_with(verdict(three_arms()) + "\nAt equal training images"));
}

TEST(Comparison, BaselinesAreRowsBelowTheArmsOncePerNumberOfUnits) {
  Summary summary = three_arms();
  for (RunResult& run : summary.runs) {
    if (run.arm == "timed") run.units = 2000 + run.seed;
    run.baselines = {{"counted", "without a network", 77, {{"distance", run.units == 1000 ? 9.0 : 8.0}}}};
  }
  const std::string text = comparison_text(summary);
  const auto of_units = text.substr(0, text.find("trained for as long as"));
  EXPECT_THAT(of_units, testing::ContainsRegex("\ncounted +77 .*9.000 ± 0.000 +[+]4.500 ± 0.707"));
  EXPECT_EQ(of_units.find("counted", of_units.find("counted") + 1), std::string::npos);
  const auto of_time = text.substr(of_units.size());
  EXPECT_THAT(of_time, testing::ContainsRegex("\ncounted .* 9.000 ± 0.000 .*\ncounted .* 8.000 ± 0.000 "));
  EXPECT_THAT(text, HasSubstr("\n  counted       without a network\n"));
  EXPECT_THAT(verdict(summary), Not(HasSubstr("counted")));
}

TEST(Comparison, TheVerdictIsOnePlainSentence) {
  EXPECT_EQ(
      verdict(three_arms()),
      "At the same training time, wide is 0.600 cm worse than timed (distance 4.100 against 3.500; difference 0.600 "
      "± 0.141 over 2 seeds).\n");
  EXPECT_EQ(verdict(summary_of({result_of("base", 0, 3.0), result_of("a", 0, 2.0), result_of("b", 0, 1.0)})),
            "After equally many training images, b is 2.000 cm better than base (distance 1.000 against 3.000; one "
            "seed, so its spread is unknown).\n");
  EXPECT_EQ(verdict(summary_of({result_of("base", 0, 3.0), result_of("a", 0, 4.0), result_of("b", 0, 1.0)}, false)),
            "After equally many training images, a is 1.000 cm better than base (distance 4.000 against 3.000; one "
            "seed, so its spread is unknown).\n");
  EXPECT_THAT(verdict(summary_of({result_of("base", 0, 3.0), result_of("a", 0, 2.0), result_of("base", 1, 2.0),
                                  result_of("a", 1, 3.1)})),
              HasSubstr("a and base do not differ clearly"));
  // Better by 0.2 and by 0.8: more than the deviation, less than three standard errors.
  EXPECT_EQ(verdict(summary_of({result_of("base", 0, 3.0), result_of("a", 0, 2.8), result_of("base", 1, 3.0),
                                result_of("a", 1, 2.2)})),
            "After equally many training images, a and base do not differ clearly (distance 2.500 against 3.000; the "
            "difference is 0.500 cm ± 0.424 over 2 seeds).\n");
  EXPECT_EQ(verdict(summary_of({result_of("base", 0, 3.0)})), "");
  EXPECT_EQ(verdict(Summary()), "");
}

TEST(Comparison, CountsAndSharesAreShownAsSuch) {
  Summary summary = summary_of({result_of("base", 0, 3), result_of("a", 0, 9)}, false);
  summary.measures[0].digits = 0;
  summary.measures[0].unit = "of 16";
  EXPECT_EQ(verdict(summary),
            "After equally many training images, a is 6 better than base (distance 9 against 3; one seed, "
            "so its spread is unknown).\n");
  summary.measures[0].unit = "%";
  summary.runs[0].measures["distance"] = 0.25;
  EXPECT_THAT(comparison_text(summary), HasSubstr("25 %"));
}

TEST(Comparison, ArmsThatStartFromOthersAreComparedAmongThemselves) {
  Summary summary = summary_of({result_of("base", 0, 4.0), result_of("wide", 0, 3.5), result_of("base-late", 0, 3.0),
                                result_of("side-late", 0, 2.9)});
  summary.runs[2].starts_from = summary.runs[3].starts_from = "base";
  const std::string text = comparison_text(summary);
  EXPECT_THAT(text, HasSubstr("After equally many training images, wide is 0.500 cm better than base"));
  EXPECT_THAT(text, HasSubstr("After equally many training images from the weights of base, side-late is 0.100 cm "
                              "better than base-late"));
  const size_t late = text.find("At equal training images from the weights of base\n");
  ASSERT_NE(late, std::string::npos);
  EXPECT_LT(text.find("\nAt equal training images\n"), late);
  EXPECT_EQ(text.substr(0, late).find("-late  "), std::string::npos);
  EXPECT_NE(text.find("vs base-late", late), std::string::npos);
  EXPECT_EQ(nlohmann::json(summary).get<Summary>().runs[2].starts_from, "base");
}

TEST(Comparison, ArmsThatGoOnAreComparedWithThoseOfDrawnWeights) {
  Summary summary = summary_of({result_of("half", 0, 4.0), result_of("more", 0, 3.5), result_of("drawn", 0, 3.0)});
  summary.runs[0].units = 400;
  summary.runs[1].units = 600;
  summary.runs[1].units_before = 400;
  summary.runs[1].starts_from = "half";
  summary.runs[2].units = 1000;
  const std::string text = comparison_text(summary);
  EXPECT_THAT(text, HasSubstr("After equally many training images, drawn is 0.500 cm better than more"));
  const size_t before = text.find("\nWhat others go on from\n");
  ASSERT_NE(before, std::string::npos);
  const std::string equal = text.substr(0, before);
  EXPECT_THAT(equal, testing::ContainsRegex("\nmore +1.0 k .*\ndrawn +1.0 k "));
  EXPECT_EQ(equal.find("\nhalf"), std::string::npos);
  EXPECT_NE(text.find("\nhalf", before), std::string::npos);
  EXPECT_EQ(nlohmann::json(summary).get<Summary>().runs[1].units_before, 400);
}

TEST(Comparison, ARunWithoutAMeasureLeavesItOut) {
  Summary summary = three_arms();
  summary.measures.push_back({"usage", 0, false, "%", "rows that are read"});
  EXPECT_THAT(comparison_text(summary), Not(HasSubstr("usage")));
  summary.runs[1].measures["usage"] = 0.5;
  EXPECT_THAT(comparison_text(summary), HasSubstr("50 %"));
}

TEST(Summary, ReadsBackAndRefusesWhatIsNone) {
  const TemporaryFolder folder;
  Summary summary = three_arms();
  summary.runs[0].measures["distance"] = std::nan("");
  summary.runs[1].units_per_second_inference = 12.5;
  summary.runs[1].baselines = {{"counted", "without a network", 7, {{"distance", 2.5}}}};
  write_file_durably(folder / "s", nlohmann::json(summary).dump());
  const Summary back = read_summary(folder / "s");
  EXPECT_EQ(nlohmann::json(back).dump(), nlohmann::json(summary).dump());
  EXPECT_TRUE(std::isnan(back.runs[0].measures.at("distance")));
  for (const std::string text :
       {"", "[1]", "{\"task\": 1}", "{\"task\": \"x\", \"unit\": \"y\", \"measures\": {}, \"runs\": 3}"}) {
    write_file_durably(folder / "s", text);
    expect_error(ExitCode::input, "s: the file must hold results of runs", [&] { read_summary(folder / "s"); });
  }
}

TEST(Summary, MergingReplacesRunsAndKeepsTheOthers) {
  Summary summary = summary_of({result_of("base", 0, 4.0), result_of("wide", 0, 3.0)});
  Summary other = summary_of({result_of("wide", 0, 2.0), result_of("wide", 1, 1.0)});
  other.measures.push_back({"usage"});
  merge(summary, other, "out");
  ASSERT_EQ(summary.runs.size(), 3u);
  EXPECT_EQ(summary.runs[1].measures.at("distance"), 2.0);
  EXPECT_EQ(summary.measures.size(), 2u);
  other.task = "another";
  expect_error(ExitCode::usage, "out: all runs must be of the task tiny, got another",
               [&] { merge(summary, other, "out"); });
}

TEST(TextTable, LongLinesAreBrokenAtSpaces) {
  EXPECT_EQ(wrapped("  short line", 4), "  short line\n");
  const std::string word(60, 'x');
  EXPECT_EQ(wrapped("  " + word + ", " + word + " ±", 4), "  " + word + ",\n    " + word + " ±\n");
  EXPECT_EQ(wrapped("a " + std::string(120, 'y'), 2), "a\n  " + std::string(120, 'y') + "\n");
}

}  // namespace
}  // namespace loci
