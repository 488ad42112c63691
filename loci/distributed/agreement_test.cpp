#include "loci/distributed/agreement.h"

#include <ATen/ops/empty.h>
#include <c10/util/Exception.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <new>
#include <stdexcept>

#include "loci/base/check.h"
#include "tests/ranks.h"

namespace loci {
namespace {

using testing::ElementsAre;

TEST(GatherTexts, EveryRankHasTheTextsOfAllInTheirOrder) {
  EXPECT_THAT(gather_texts({}, "alone"), ElementsAre("alone"));
  run_ranks(3, [](const Ranks& ranks) {
    const std::string whole("with \0 and \xff", 12);
    const std::vector<std::string> mine = {whole, "", std::string(100000, 'x')};
    EXPECT_THAT(gather_texts(ranks, mine[static_cast<size_t>(ranks.rank)]), ElementsAre(mine[0], mine[1], mine[2]));
    EXPECT_THAT(gather_texts(ranks, ""), ElementsAre("", "", ""));
  });
}

// What each of three ranks throws when those given by `action` fail, as "CODE TEXT".
std::vector<std::string> errors_of(const std::function<void(int64_t)>& action) {
  std::vector<std::string> errors(3);
  run_ranks(3, [&](const Ranks& ranks) {
    auto& mine = errors[static_cast<size_t>(ranks.rank)];
    try {
      together(ranks, [&] { action(ranks.rank); });
    } catch (const Error& error) {
      mine = std::to_string(static_cast<int>(error.code())) + " " + error.what();
    }
    EXPECT_EQ(gather_texts(ranks, "after").size(), 3U);  // the group works on
  });
  return errors;
}

std::vector<std::string> on_all(const std::string& text) {
  return {text, text, text};
}

TEST(Together, AnErrorOfOneIsAnErrorOfAll) {
  EXPECT_EQ(errors_of([](int64_t) {}), on_all(""));
  EXPECT_EQ(errors_of([](int64_t rank) {
              if (rank > 0)
                fail(ExitCode::resources, "disk " + std::to_string(rank), "it must be large", "a small one");
            }),
            on_all("4 rank 1: disk 1: it must be large, got a small one"));
}

TEST(Together, OtherExceptionsTravelAsErrors) {
  const auto thrown_by_last = [](const std::function<void()>& thrower) {
    return errors_of([&](int64_t rank) {
      if (rank == 2) thrower();
    });
  };
  EXPECT_EQ(thrown_by_last([] { throw std::bad_alloc(); }), on_all("4 rank 2: memory: there must be enough, got none"));
  EXPECT_EQ(thrown_by_last([] { throw std::logic_error("first\nsecond"); }), on_all("1 rank 2: first"));
  EXPECT_EQ(thrown_by_last([] { throw 7; }), on_all("1 rank 2: an exception of an unknown type"));
  EXPECT_EQ(thrown_by_last([] { TORCH_CHECK(false, "a must be b, got c"); }), on_all("1 rank 2: a must be b, got c"));
  const std::vector<std::string> memory = thrown_by_last([] { at::empty({int64_t{1} << 60}, at::kByte); });
  EXPECT_THAT(memory, testing::Each(testing::StartsWith("4 rank 2: ")));
}

TEST(Together, OneRankThrowsWhatWasThrown) {
  EXPECT_NO_THROW(together({}, [] {}));
  EXPECT_THROW(together({}, [] { throw std::logic_error("as it is"); }), std::logic_error);
  try {
    together({}, [] { fail(ExitCode::input, "a", "b", "c"); });
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::input);
    EXPECT_STREQ(error.what(), "a: b, got c");
  }
}

// The ranks that a lost peer is about cannot be told; the one that lost it must not wait a second time.
TEST(Together, ALostPeerIsToldAtOnce) {
  try {
    run_ranks(2, [](const Ranks& ranks) {
      if (ranks.rank == 1) return;
      together(ranks, [] { fail(ExitCode::peer, "rank 0 of 2", "every rank must take part", "silence"); });
    });
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::peer);
    EXPECT_STREQ(error.what(), "rank 0 of 2: every rank must take part, got silence");
  }
}

}  // namespace
}  // namespace loci
