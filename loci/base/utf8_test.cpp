#include "loci/base/utf8.h"

#include <gtest/gtest.h>

#include <cstdint>

namespace loci {
namespace {

TEST(Utf8, TakesEveryScalarValueAndItsPrefixesAsTruncated) {
  for (char32_t scalar = 0; scalar < 0x110000; ++scalar) {
    if (scalar >= 0xD800 && scalar < 0xE000) continue;
    std::string text;
    append_utf8(text, scalar);
    const Utf8Step step = utf8_step(text + "x");
    ASSERT_TRUE(step.valid) << static_cast<uint32_t>(scalar);
    ASSERT_EQ(step.length, static_cast<int>(text.size()));
    for (size_t cut = 1; cut < text.size(); ++cut) {
      const Utf8Step part = utf8_step(std::string_view(text).substr(0, cut));
      ASSERT_TRUE(!part.valid && part.truncated && part.length == static_cast<int>(cut))
          << static_cast<uint32_t>(scalar);
    }
  }
}

TEST(Utf8, RefusesOverlongSurrogatesAndWhatIsBeyondUnicode) {
  for (const char* text : {"\xC0\x80", "\xC1\xBF", "\xE0\x9F\xBF", "\xED\xA0\x80", "\xF0\x8F\xBF\xBF",
                           "\xF4\x90\x80\x80", "\xF5\x80\x80\x80", "\xFF", "\x80", "\xC3(", "\xED\xBF\xBF"}) {
    const Utf8Step step = utf8_step(text);
    EXPECT_FALSE(step.valid || step.truncated) << text;
    EXPECT_EQ(step.length, 1);
  }
  EXPECT_EQ(utf8_step("\xE2\x96x").length, 2);
  EXPECT_EQ(utf8_step("\xF0\x9F\x98x").length, 3);
  EXPECT_EQ(utf8_step("").length, 0);
}

}  // namespace
}  // namespace loci
