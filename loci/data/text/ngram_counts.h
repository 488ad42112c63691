// A language model without a network: counted n-grams, interpolated with modified Kneser-Ney smoothing (Chen & Goodman
// 1999, "An empirical study of smoothing techniques for language modeling", section 3.4). The discounts come from the
// counts alone, so there is nothing to tune. It shows what a network adds to counting on the same tokens.
//
//   p_n(w | h) = (c(h w) - D(c(h w))) / c(h)  +  b(h) p_{n-1}(w | h without its first token)
//   p_0(w)     = 1 / V                                    b(h): what the discounts leave
//
// c counts occurrences at the highest order; below it, of how many different tokens in front w has been seen.
// D(1), D(2), D(3 or more) of an order follow from how many of its n-grams have count 1, 2, 3 and 4.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

namespace loci {

class NgramCounts {
 public:
  static constexpr int64_t kMostOrder = 3;

  // order: 1 .. kMostOrder. vocabulary: V. Holds 12 bytes for each token that is added, until finish().
  NgramCounts(int64_t order, int64_t vocabulary);
  // A text, or a part of one, of tokens in 0 .. V - 1. Its first order - 1 tokens have no whole history and do not
  // count.
  void add(std::span<const int64_t> tokens);
  // No more text: counts.
  void finish();

  // p(token | the last order - 1 tokens of the history, or all where it is shorter). After finish().
  double probability(std::span<const int64_t> history, int64_t token) const;
  // How often the last order - 1 tokens of the history stood before a token; 0 for a shorter history.
  int64_t count_of(std::span<const int64_t> history) const;
  // N-grams of the highest order with a count.
  int64_t distinct() const { return static_cast<int64_t>(orders_.back().grams.size()); }

 private:
  using Gram = std::array<int32_t, kMostOrder>;  // of order n: the last n entries, zeros before
  // The n-grams with one history, grams[first .. last - 1].
  struct History {
    int64_t first = 0, last = 0;
    double total = 0;  // of their counts
    double left = 0;   // b
  };
  struct Order {
    std::vector<Gram> grams;  // ascending
    std::vector<int32_t> counts;
    std::vector<History> histories;  // ascending
    std::array<double, 4> discount = {};
  };
  static void count(std::vector<Gram> grams, Order& order);
  static void weigh(int64_t length, Order& order);
  static const History* history_of(int64_t length, const Order& order, const Gram& gram);

  int64_t vocabulary_;
  std::vector<Gram> added_;
  std::vector<Order> orders_;  // [n - 1] of length n
};

}  // namespace loci
