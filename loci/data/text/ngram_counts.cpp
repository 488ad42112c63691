#include "loci/data/text/ngram_counts.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "loci/base/check.h"

namespace loci {
namespace {

constexpr int32_t kManyTimes = 3;  // from here on all counts have the same discount

}  // namespace

NgramCounts::NgramCounts(int64_t order, int64_t vocabulary)
    : vocabulary_(vocabulary), orders_(static_cast<size_t>(std::clamp<int64_t>(order, 1, kMostOrder))) {
  if (order < 1 || order > kMostOrder) {
    fail(ExitCode::bug, "n-gram counts", fmt::format("order must be within 1 .. {}", kMostOrder),
         fmt::to_string(order));
  }
  if (vocabulary < 1 || vocabulary > std::numeric_limits<int32_t>::max()) {
    fail(ExitCode::bug, "n-gram counts", "vocabulary must be within 1 .. 2^31 - 1", fmt::to_string(vocabulary));
  }
}

void NgramCounts::add(std::span<const int64_t> tokens) {
  const size_t length = orders_.size();
  Gram gram = {};
  for (size_t i = 0; i < tokens.size(); ++i) {
    if (tokens[i] < 0 || tokens[i] >= vocabulary_) {
      fail(ExitCode::bug, "n-gram counts", fmt::format("tokens must be within 0 .. {}", vocabulary_ - 1),
           fmt::to_string(tokens[i]));
    }
    std::shift_left(gram.begin() + static_cast<int64_t>(kMostOrder - length), gram.end(), 1);
    gram.back() = static_cast<int32_t>(tokens[i]);
    if (i + 1 >= length) added_.push_back(gram);
  }
}

void NgramCounts::finish() {
  count(std::exchange(added_, {}), orders_.back());
  // Below the highest order an n-gram counts once for each different token in front of it.
  for (size_t n = orders_.size() - 1; n > 0; --n) {
    std::vector<Gram> shorter = orders_[n].grams;
    for (Gram& gram : shorter) gram[kMostOrder - n - 1] = 0;
    count(std::move(shorter), orders_[n - 1]);
  }
  for (size_t n = 0; n < orders_.size(); ++n) weigh(static_cast<int64_t>(n) + 1, orders_[n]);
}

void NgramCounts::count(std::vector<Gram> grams, Order& order) {
  std::sort(grams.begin(), grams.end());
  for (size_t i = 0; i < grams.size(); ++i) {
    if (i == 0 || grams[i] != grams[i - 1]) {
      order.grams.push_back(grams[i]);
      order.counts.push_back(0);
    }
    ++order.counts.back();
  }
}

void NgramCounts::weigh(int64_t length, Order& order) {
  std::array<double, 5> with_count = {};  // how many n-grams have count 1, 2, 3, 4
  for (const int32_t c : order.counts) {
    if (c < 5) with_count[static_cast<size_t>(c)] += 1;
  }
  // The paper's equation 26. A text that is too small for it gets usual values.
  const double y = with_count[1] / std::max(1.0, with_count[1] + 2 * with_count[2]);
  bool usable = true;
  for (size_t c = 1; c <= kManyTimes; ++c) {
    const auto n = static_cast<double>(c);
    order.discount[c] = n - (n + 1) * y * with_count[c + 1] / std::max(1.0, with_count[c]);
    usable = usable && with_count[c] > 0 && with_count[c + 1] > 0 && order.discount[c] >= 0;
  }
  if (!usable) order.discount = {0, 0.5, 1, 1.5};
  const auto same_history = [&](const Gram& a, const Gram& b) {
    return std::equal(a.end() - length, a.end() - 1, b.end() - length);
  };
  for (int64_t first = 0, end = std::ssize(order.grams); first < end;) {
    History history{first, first};
    double taken = 0;
    const Gram& gram = order.grams[static_cast<size_t>(first)];
    for (; history.last < end && same_history(order.grams[static_cast<size_t>(history.last)], gram); ++history.last) {
      const int32_t c = order.counts[static_cast<size_t>(history.last)];
      history.total += c;
      taken += order.discount[static_cast<size_t>(std::min(c, kManyTimes))];
    }
    history.left = taken / history.total;
    order.histories.push_back(history);
    first = history.last;
  }
}

const NgramCounts::History* NgramCounts::history_of(int64_t length, const Order& order, const Gram& gram) {
  const auto before = [&](const History& history, const Gram& wanted) {
    const Gram& its = order.grams[static_cast<size_t>(history.first)];
    return std::lexicographical_compare(its.end() - length, its.end() - 1, wanted.end() - length, wanted.end() - 1);
  };
  const auto found = std::lower_bound(order.histories.begin(), order.histories.end(), gram, before);
  if (found == order.histories.end()) return nullptr;
  const Gram& its = order.grams[static_cast<size_t>(found->first)];
  return std::equal(its.end() - length, its.end() - 1, gram.end() - length) ? &*found : nullptr;
}

int64_t NgramCounts::count_of(std::span<const int64_t> history) const {
  const size_t length = orders_.size();
  if (history.size() + 1 < length) return 0;
  Gram gram = {};
  std::copy_n(history.end() - static_cast<std::ptrdiff_t>(length - 1), length - 1,
              gram.end() - static_cast<std::ptrdiff_t>(length));
  const History* const found = history_of(static_cast<int64_t>(length), orders_.back(), gram);
  return found == nullptr ? 0 : static_cast<int64_t>(found->total);
}

double NgramCounts::probability(std::span<const int64_t> history, int64_t token) const {
  const auto known = std::min(history.size(), orders_.size() - 1);
  Gram gram = {};
  for (size_t i = 0; i < known; ++i) {
    gram[kMostOrder - 2 - i] = static_cast<int32_t>(history[history.size() - 1 - i]);
  }
  gram.back() = static_cast<int32_t>(token);
  double p = 1 / static_cast<double>(vocabulary_);
  Gram shorter = {};
  for (size_t n = 0; n <= known; ++n) {
    shorter[kMostOrder - 1 - n] = gram[kMostOrder - 1 - n];
    const Order& order = orders_[n];
    const History* const of = history_of(static_cast<int64_t>(n) + 1, order, shorter);
    if (of == nullptr) break;  // no longer history was seen either
    const auto begin = order.grams.begin() + of->first, end = order.grams.begin() + of->last;
    const auto place = std::lower_bound(begin, end, shorter);
    double counted = 0;
    if (place != end && *place == shorter) {
      const int32_t c = order.counts[static_cast<size_t>(place - order.grams.begin())];
      counted = c - order.discount[static_cast<size_t>(std::min(c, kManyTimes))];
    }
    p = counted / of->total + of->left * p;
  }
  return p;
}

}  // namespace loci
