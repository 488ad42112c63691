// Legend: B batch, L positions, K columns. tests/test_ngram_hash.py compares with Python's integers.
#include "loci/ops/ngram_hash/ngram_hash.h"

#include <gmock/gmock.h>

#include "tests/op_harness.h"

namespace loci::ngram_hash_test {
namespace {

using torch::Tensor;

struct Arguments {
  Tensor tokens, starts, multipliers, modulus, offset;
  std::vector<int64_t> orders;
  int64_t pad = 0;
  Tensor rows() const { return ngram_hash(tokens, starts, multipliers, orders, modulus, offset, pad); }
};

Arguments arguments(int64_t batch, int64_t length) {
  torch::manual_seed(0);
  const auto numbers = [](std::vector<int64_t> list) { return torch::tensor(list, torch::kLong); };
  return {torch::randint(1000, {batch, length}, torch::kLong),
          torch::rand({batch, length}).lt(0.2),
          numbers({0x123456789abcdef, -0x7edcba987654321, 0x55aa55aa55aa55b}),
          numbers({1009, 5003, 4999, 4993}),
          numbers({0, 1009, 6012, 11011}),
          {1, 3, 2, 3},
          1000};
}

// One row, in unsigned 64-bit words.
int64_t reference(const Arguments& a, int64_t b, int64_t l, size_t column) {
  const auto at = [](const Tensor& x, int64_t i) { return x[i].item<int64_t>(); };
  uint64_t hash = 0;
  bool earlier = false;
  for (int64_t i = 0; i < a.orders[column]; ++i) {
    if (i > 0 && l - i + 1 >= 0) earlier = earlier || a.starts[b][l - i + 1].item<bool>();
    const int64_t token = l - i < 0 || earlier ? a.pad : at(a.tokens[b], l - i);
    hash ^= static_cast<uint64_t>(token) * static_cast<uint64_t>(at(a.multipliers, i));
  }
  const auto signed_hash = static_cast<int64_t>(hash);
  const int64_t p = at(a.modulus, static_cast<int64_t>(column));
  return (signed_hash % p + p) % p + at(a.offset, static_cast<int64_t>(column));
}

TEST(NgramHash, EqualsAReferenceInUnsignedWords) {
  for (const auto& [batch, length] : std::vector<std::pair<int64_t, int64_t>>{{2, 9}, {3, 1}, {1, 2}, {0, 4}, {2, 0}}) {
    const Arguments a = arguments(batch, length);
    const Tensor rows = a.rows();
    ASSERT_EQ(rows.sizes(), (std::vector<int64_t>{batch, length, 4}));
    for (int64_t b = 0; b < batch; ++b) {
      for (int64_t l = 0; l < length; ++l) {
        for (size_t k = 0; k < a.orders.size(); ++k) {
          ASSERT_EQ(rows[b][l][static_cast<int64_t>(k)].item<int64_t>(), reference(a, b, l, k)) << b << " " << l;
        }
      }
    }
  }
}

TEST(NgramHash, ARowDependsOnItsLastTokensAlone) {
  const Arguments a = arguments(2, 12);
  Arguments tail = a;
  tail.tokens = a.tokens.narrow(1, 4, 8);
  tail.starts = a.starts.narrow(1, 4, 8);
  EXPECT_TRUE(torch::equal(tail.rows().narrow(1, 2, 6), a.rows().narrow(1, 6, 6)));  // the longest order is 3
}

TEST(NgramHash, GivesTheSameRowsForAnyThreadCountAndStrides) {
  const Arguments a = arguments(40, 500);
  harness::expect_same_bits_for_any_thread_count([&] { return std::vector<Tensor>{a.rows()}; });
  Arguments other = a;
  other.tokens = harness::strided(a.tokens);
  other.starts = harness::strided(a.starts);
  EXPECT_TRUE(torch::equal(other.rows(), a.rows()));
}

TEST(NgramHash, BadArgumentsAreRefused) {
  const auto refused = [](const std::string& word, const std::function<void(Arguments&)>& change) {
    Arguments a = arguments(2, 5);
    change(a);
    try {
      a.rows();
      ADD_FAILURE() << word << " was accepted";
    } catch (const c10::Error& error) {
      EXPECT_THAT(error.what_without_backtrace(), testing::HasSubstr("ngram_hash: " + word));
    }
  };
  refused("tokens must be int64 [B, L], got Int", [](auto& a) { a.tokens = a.tokens.to(torch::kInt); });
  refused("tokens must be int64 [B, L], got Long [10]", [](auto& a) { a.tokens = a.tokens.flatten(); });
  refused("starts must be bool [2, 5] like tokens, got Bool [2, 4]",
          [](auto& a) { a.starts = a.starts.narrow(1, 0, 4); });
  refused("starts must be bool [2, 5] like tokens, got Long", [](auto& a) { a.starts = a.tokens; });
  refused("multipliers must be int64 [n], got Double",
          [](auto& a) { a.multipliers = a.multipliers.to(torch::kDouble); });
  refused("orders must be within 1 .. 3 (the multipliers), got 4", [](auto& a) { a.orders[1] = 4; });
  refused("orders must be within 1 .. 3 (the multipliers), got 0", [](auto& a) { a.orders[0] = 0; });
  refused("modulus must be int64 [4] (one for each of orders), got Long [3]",
          [](auto& a) { a.modulus = a.modulus.narrow(0, 0, 3); });
  refused("offset must be int64 [4] (one for each of orders), got Int",
          [](auto& a) { a.offset = a.offset.to(torch::kInt); });
}

}  // namespace
}  // namespace loci::ngram_hash_test
