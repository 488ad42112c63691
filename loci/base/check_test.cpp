#include "loci/base/check.h"

#include <gtest/gtest.h>

#include <limits>

#include "tests/temporary_folder.h"

namespace loci {
namespace {

constexpr int64_t kLargest = std::numeric_limits<int64_t>::max();

TEST(Fail, SaysWhoWhatWasExpectedAndWhatCame) {
  try {
    fail(ExitCode::input, "table_read", "index must be int64", "Int");
    FAIL();
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(), "table_read: index must be int64, got Int");
    EXPECT_EQ(error.code(), ExitCode::input);
  }
}

TEST(CheckedProduct, RefusesOverflowAndNegativeSizes) {
  EXPECT_EQ(checked_product("a", "bytes", 3, 5), 15);
  EXPECT_EQ(checked_product("a", "bytes", kLargest, 1), kLargest);
  EXPECT_EQ(checked_product("a", "bytes", kLargest, 0), 0);
  expect_error(ExitCode::usage, "a: bytes must fit 63 bits, got 9223372036854775807 x 2",
               [] { checked_product("a", "bytes", kLargest, 2); });
  EXPECT_THROW(checked_product("a", "bytes", int64_t{1} << 32, int64_t{1} << 31), Error);
  EXPECT_THROW(checked_product("a", "bytes", -1, 2), Error);
  EXPECT_THROW(checked_product("a", "bytes", 2, -1), Error);
}

TEST(CheckedSum, RefusesOverflowAndNegativeSizes) {
  EXPECT_EQ(checked_sum("a", "bytes", kLargest - 1, 1), kLargest);
  expect_error(ExitCode::usage, "a: bytes must fit 63 bits, got 9223372036854775807 + 1",
               [] { checked_sum("a", "bytes", kLargest, 1); });
  EXPECT_THROW(checked_sum("a", "bytes", -1, 1), Error);
  EXPECT_THROW(checked_sum("a", "bytes", 1, -1), Error);
}

TEST(Printable, EscapesWhatATerminalWouldObeyAndKeepsTheRest) {
  EXPECT_EQ(printable("a/b \\ \"\u00e4\u20ac\U0001F600\""), "a/b \\ \"\u00e4\u20ac\U0001F600\"");
  EXPECT_EQ(printable("a\nb\r\tc"), "a\\nb\\r\\tc");
  EXPECT_EQ(printable(std::string_view("\0\x1b[2J\x7f", 6)), "\\u0000\\u001b[2J\\u007f");
  EXPECT_EQ(printable("\u0085\u009b\u00a0"), "\\u0085\\u009b\u00a0");
  EXPECT_EQ(printable("\u2028\u202e\u2066\u200f\u2070"), "\\u2028\\u202e\\u2066\\u200f\u2070");
  EXPECT_EQ(printable("\xff \xe2\x82 \xc3"), "\\xff \\xe2\\x82 \\xc3");
  EXPECT_EQ(printable(printable("\n\xff")), printable("\n\xff"));
  EXPECT_EQ(printable(""), "");
}

TEST(Fail, IsOneLineWhateverTheNamesHold) {
  try {
    fail(ExitCode::input, "a\nb", "name must be \x1b[31m", "\xff");
    FAIL();
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(), "a\\nb: name must be \\u001b[31m, got \\xff");
  }
  EXPECT_STREQ(Error(ExitCode::usage, "two\nlines").what(), "two\\nlines");
}

TEST(AsInput, TurnsWrongUsageIntoABrokenFileAndKeepsOtherFaults) {
  const auto code_of = [](ExitCode code) {
    try {
      as_input([code] { fail(code, "config.toml", "key must be known", "another"); });
    } catch (const Error& error) {
      EXPECT_STREQ(error.what(), "config.toml: key must be known, got another");
      return error.code();
    }
    return ExitCode::ok;
  };
  EXPECT_EQ(code_of(ExitCode::usage), ExitCode::input);
  EXPECT_EQ(code_of(ExitCode::input), ExitCode::input);
  EXPECT_EQ(code_of(ExitCode::resources), ExitCode::resources);
  EXPECT_EQ(as_input([] { return 3; }), 3);
}

}  // namespace
}  // namespace loci
