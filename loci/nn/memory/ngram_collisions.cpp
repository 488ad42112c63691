#include "loci/nn/memory/ngram_collisions.h"

#include <ATen/ops/full.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <limits>

#include "loci/base/random.h"

namespace loci {
namespace {

// A hash that tells n-grams apart, whatever rows a table has: one column for each order.
NgramRows names_of(const NgramRows& rows) {
  constexpr int64_t prime = (int64_t{1} << 61) - 1;
  std::vector<int64_t> multipliers, orders = rows.orders;
  orders.erase(std::unique(orders.begin(), orders.end()), orders.end());
  const CounterRandom random(0, "ngram.names");
  for (int64_t i = 0; i < rows.longest(); ++i) {
    multipliers.push_back(static_cast<int64_t>(random.bits(static_cast<uint64_t>(i)) | 1));
  }
  const auto columns = static_cast<int64_t>(orders.size());
  return {at::tensor(multipliers, at::kLong), orders, at::full({columns}, prime, at::kLong),
          at::zeros({columns}, at::kLong), rows.pad};
}

}  // namespace

NgramCollisions::NgramCollisions(NgramRows rows)
    : rows_(std::move(rows)), names_(names_of(rows_)), ngrams_of_row_(rows_.orders.size()) {
  for (const int64_t order : names_.orders) {
    Seen seen;
    for (size_t k = 0; k < rows_.orders.size(); ++k) {
      if (rows_.orders[k] == order) seen.columns.push_back(k);
    }
    orders_.emplace_back(order, std::move(seen));
  }
}

void NgramCollisions::add(const at::Tensor& tokens, const at::Tensor& starts, const at::Tensor& counts) {
  const at::Tensor name = names_.of(tokens, starts).cpu().contiguous();  // [B, L, orders]
  const at::Tensor row = rows_.of(tokens, starts).cpu().contiguous();    // [B, L, K]
  const at::Tensor counted = counts.defined() ? counts.cpu().contiguous() : counts;
  const size_t columns = rows_.orders.size();
  const auto* names = name.const_data_ptr<int64_t>();
  const auto* rows = row.const_data_ptr<int64_t>();
  for (int64_t t = 0; t < tokens.numel(); ++t, names += orders_.size(), rows += columns) {
    if (counted.defined() && !counted.const_data_ptr<bool>()[t]) continue;
    for (size_t i = 0; i < orders_.size(); ++i) {
      Seen& seen = orders_[i].second;
      if (!seen.ngrams.insert(names[i]).second) continue;
      for (const size_t k : seen.columns) ++ngrams_of_row_[k][rows[k]];
    }
  }
}

std::vector<NgramCollisions::Order> NgramCollisions::orders() const {
  std::vector<Order> result;
  for (const auto& [order, seen] : orders_) {
    double alone = 0;
    for (const size_t k : seen.columns) {
      const auto has_one = [](const auto& row) { return row.second == 1; };
      alone += static_cast<double>(std::count_if(ngrams_of_row_[k].begin(), ngrams_of_row_[k].end(), has_one));
    }
    const auto distinct = static_cast<double>(seen.ngrams.size());
    const double shared = 1 - alone / (distinct * static_cast<double>(seen.columns.size()));
    result.push_back({order, std::ssize(seen.ngrams), shared});
  }
  return result;
}

}  // namespace loci
