#include "loci/nn/relation/non_local_options.h"

#include <gmock/gmock.h>

#include <functional>
#include <string>

#include "loci/base/check.h"

namespace loci::non_local_options_test {
namespace {

using ::testing::HasSubstr;

NonLocalOptions with_channels(int64_t channels, int64_t dimensions = 3) {
  NonLocalOptions options;
  options.channels = channels;
  options.dimensions = dimensions;
  return options;
}

// 2 C^2 + 4.5 C with a norm.
TEST(NonLocalOptions, CountsParametersOfThePaper) {
  EXPECT_EQ(count_non_local_parameters(with_channels(512)), 526592);
  EXPECT_EQ(count_non_local_parameters(with_channels(1024)), 2101760);
  NonLocalOptions o = with_channels(10);
  o.inner = 3;
  o.form = PairForm::gaussian;
  o.norm = PairNorm::none;
  EXPECT_EQ(count_non_local_parameters(o), 3 * 10 + 3 + 10 * 3 + 10);
  o.form = PairForm::concat;
  o.output_bias = false;
  EXPECT_EQ(count_non_local_parameters(o), 3 * (30 + 3) + 30 + 6);
}

TEST(NonLocalOptions, CountsMultiplyAdds) {
  NonLocalOptions o = with_channels(8);  // I 4, pooled before
  const int64_t N = 2 * 4 * 6, M = 2 * 2 * 3;
  EXPECT_EQ(non_local_multiply_adds(o, {2, 4, 6}), N * 32 * 2 + M * 32 * 2 + N * M * 8);
  o.pool = PairPool::after;
  EXPECT_EQ(non_local_multiply_adds(o, {2, 4, 6}), N * 32 * 4 + N * M * 8);
  o.domain = PairDomain::space;
  EXPECT_EQ(non_local_multiply_adds(o, {2, 4, 6}), N * 32 * 4 + N * (M / 2) * 8);
  o.form = PairForm::gaussian;
  EXPECT_EQ(non_local_multiply_adds(o, {2, 4, 6}), N * 32 * 2 + N * (M / 2) * 12);
}

TEST(NonLocalOptions, HaveWindowsByDomain) {
  using Windows = std::pair<MapExtents, MapExtents>;
  NonLocalOptions o = with_channels(8);
  const MapExtents map = {4, 6, 7};
  EXPECT_EQ(o.windows(map), Windows({4, 6, 7}, {4, 3, 3}));
  o.domain = PairDomain::space;
  EXPECT_EQ(o.windows(map), Windows({1, 6, 7}, {1, 3, 3}));
  o.domain = PairDomain::groups;
  o.group = 2;
  EXPECT_EQ(o.windows(map), Windows({2, 6, 7}, {2, 3, 3}));
  o.domain = PairDomain::window;
  o.window = {2, 2, 7};
  EXPECT_EQ(o.windows(map), Windows({2, 2, 7}, {2, 1, 3}));
  o.domain = PairDomain::time;
  o.pool_kernel = {2, 1, 1};
  EXPECT_EQ(o.windows(map), Windows({4, 1, 1}, {2, 1, 1}));
  EXPECT_EQ(with_channels(8, 1).windows({1, 1, 9}), Windows({1, 1, 9}, {1, 1, 4}));
}

TEST(NonLocalOptions, HaveThePapersAndTheReleasesSwitches) {
  const auto paper = NonLocalOptions::paper(8, 3), release = NonLocalOptions::release(8, 3);
  EXPECT_EQ(paper.scale, PairScale::none);
  EXPECT_EQ(paper.pool, PairPool::after);
  EXPECT_EQ(paper.start, PairStart::he);
  EXPECT_EQ(release.scale, PairScale::rsqrt);
  EXPECT_EQ(release.pool, PairPool::before);
  EXPECT_EQ(release.start, PairStart::small);
  EXPECT_EQ(release.dimensions, 3);
}

std::string refusal_of(const std::function<void(NonLocalOptions&)>& change, const MapExtents& map = {4, 6, 8}) {
  NonLocalOptions o = with_channels(8);
  change(o);
  try {
    o.check();
    o.windows(map);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::usage);
    return error.what();
  }
  return "";
}

TEST(NonLocalOptions, RefuseWhatDoesNotFit) {
  EXPECT_THAT(refusal_of([](auto& o) { o.channels = 0; }), HasSubstr("channels must be at least 1, got 0"));
  EXPECT_THAT(refusal_of([](auto& o) { o.dimensions = 4; }), HasSubstr("dimensions must be within 1 .. 3, got 4"));
  EXPECT_THAT(refusal_of([](auto& o) { o.inner = -1; }), HasSubstr("inner must be at least 0, got -1"));
  EXPECT_THAT(refusal_of([](auto& o) { o.pool_kernel = {2, 2}; }),
              HasSubstr("pool_kernel must be 3 edges of at least 1, got [2, 2]"));
  EXPECT_THAT(refusal_of([](auto& o) { o.domain = PairDomain::window; }),
              HasSubstr("window must be 3 edges of at least 1, got []"));
  EXPECT_THAT(refusal_of([](auto& o) {
                o.domain = PairDomain::space;
                o.dimensions = 2;
              }),
              HasSubstr("need maps with frames (dimensions 3), got 2"));
  EXPECT_THAT(
      refusal_of([](auto& o) { o.domain = PairDomain::time; }),
      HasSubstr("domain time must not pool in space: keys would leave the query's place, got pool_kernel 1x2x2"));
  EXPECT_THAT(refusal_of([](auto& o) {
                o.domain = PairDomain::groups;
                o.group = 3;
              }),
              HasSubstr("frames must be a multiple of the window's 3, got 4"));
  EXPECT_THAT(refusal_of([](auto& o) {
                o.domain = PairDomain::window;
                o.window = {4, 3, 8};
              }),
              HasSubstr("height of a window must be a multiple of the pooling kernel's 2, got 3"));
  EXPECT_THAT(refusal_of([](auto&) {}, {4, 1, 8}), HasSubstr("height must be at least the pooling kernel's 2, got 1"));
}

}  // namespace
}  // namespace loci::non_local_options_test
