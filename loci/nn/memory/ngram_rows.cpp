#include "loci/nn/memory/ngram_rows.h"

#include <ATen/ops/tensor.h>
#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <string>

#include "loci/base/check.h"
#include "loci/base/random.h"
#include "loci/ops/ngram_hash/ngram_hash.h"

namespace loci {
namespace {

[[noreturn]] void refuse_ngrams(const std::string& expected, const std::string& got) {
  fail(ExitCode::usage, "ngram", expected, got);
}

bool is_prime(int64_t number) {
  if (number < 4) return number > 1;
  if (number % 2 == 0) return false;
  for (int64_t factor = 3; factor <= number / factor; factor += 2) {
    if (number % factor == 0) return false;
  }
  return true;
}

int64_t prime_from(int64_t least) {
  while (!is_prime(least)) ++least;
  return least;
}

std::vector<int64_t> ascending_orders(std::vector<int64_t> orders) {
  std::sort(orders.begin(), orders.end());
  if (orders.empty()) refuse_ngrams("orders must name at least one order", "none");
  for (const int64_t order : {orders.front(), orders.back()}) {
    if (order < 1 || order > kLongestNgram) {
      refuse_ngrams(fmt::format("orders must be within 1 .. {}", kLongestNgram), std::to_string(order));
    }
  }
  const auto twice = std::adjacent_find(orders.begin(), orders.end());
  if (twice != orders.end()) refuse_ngrams("orders must name each order once", fmt::format("{} twice", *twice));
  return orders;
}

// The prime of an order 1 without collisions; 0: there is none.
int64_t whole_vocabulary(const std::vector<int64_t>& orders, int64_t rows, int64_t vocabulary) {
  if (orders.front() != 1) return 0;
  const int64_t room = orders.size() == 1 ? rows : rows / 2;
  if (vocabulary >= room) return 0;
  const int64_t prime = prime_from(vocabulary + 1);
  return prime <= room ? prime : 0;
}

struct Columns {
  std::vector<int64_t> orders, primes;
};

Columns columns_of(const std::vector<int64_t>& given, int64_t hash_heads, int64_t rows, int64_t vocabulary) {
  if (hash_heads < 1) refuse_ngrams("hash_heads must be at least 1", std::to_string(hash_heads));
  if (vocabulary < 1) refuse_ngrams("vocabulary must be at least 1", std::to_string(vocabulary));
  const std::vector<int64_t> orders = ascending_orders(given);
  Columns columns;
  const int64_t first = whole_vocabulary(orders, rows, vocabulary);
  if (first != 0) columns = {{1}, {first}};
  for (const int64_t order : orders) {
    if (order == 1 && first != 0) continue;
    columns.orders.insert(columns.orders.end(), static_cast<size_t>(hash_heads), order);
  }
  const int64_t others = std::ssize(columns.orders) - std::ssize(columns.primes);
  if (others == 0) return columns;
  const int64_t share = (rows - first) / others;
  int64_t prime = share;
  while (columns.primes.size() < columns.orders.size()) {
    while (prime >= 2 && (prime == first || !is_prime(prime))) --prime;
    if (prime < 2) {
      refuse_ngrams(fmt::format("rows must hold a prime for each of {} pairs of an order and a head", others),
                    fmt::format("{} rows", rows));
    }
    columns.primes.push_back(prime--);
  }
  return columns;
}

}  // namespace

at::Tensor NgramRows::of(const at::Tensor& tokens, const at::Tensor& starts) const {
  const auto here = [&](const at::Tensor& x) { return x.to(tokens.device()); };
  return ngram_hash(tokens, starts, here(multipliers), orders, here(modulus), here(offset), pad);
}

int64_t ngram_columns(const std::vector<int64_t>& orders, int64_t hash_heads, int64_t rows, int64_t vocabulary) {
  return std::ssize(columns_of(orders, hash_heads, rows, vocabulary).orders);
}

NgramRows ngram_rows(const std::vector<int64_t>& orders, int64_t hash_heads, int64_t rows, int64_t vocabulary,
                     uint64_t seed) {
  const Columns columns = columns_of(orders, hash_heads, rows, vocabulary);
  const auto odd_numbers = static_cast<uint64_t>((std::numeric_limits<int64_t>::max() / vocabulary - 1) / 2 + 1);
  const CounterRandom random(seed, "ngram.multipliers");
  std::vector<int64_t> multipliers, offset;
  for (uint64_t draw = 0; std::ssize(multipliers) < columns.orders.back(); ++draw) {
    const auto number = static_cast<int64_t>(2 * random.below(draw, odd_numbers) + 1);
    const auto divides = [&](int64_t prime) { return number % prime == 0; };
    if (std::none_of(columns.primes.begin(), columns.primes.end(), divides)) multipliers.push_back(number);
  }
  int64_t begin = 0;
  for (const int64_t prime : columns.primes) {
    offset.push_back(begin);
    begin += prime;
  }
  const auto tensor = [](const std::vector<int64_t>& numbers) { return at::tensor(numbers, at::kLong); };
  return {tensor(multipliers), columns.orders, tensor(columns.primes), tensor(offset), vocabulary};
}

}  // namespace loci
