#include "loci/nn/memory/product_key_memory.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "loci/base/check.h"
#include "loci/nn/initialise.h"
#include "loci/ops/product_key_search/product_key_search.h"

namespace loci {
namespace {

int64_t product_addresses(const ProductKeyMemoryOptions& options, const TablePtr& table) {
  if (!table) fail(ExitCode::usage, "ProductKeyMemory", "table must be given", "none");
  if (options.addressing == RowAddressing::mask) return table->rows();
  const auto [n1, n2] = sub_keys_for(table->rows());
  return n1 * n2;
}

}  // namespace

SubKeys sub_keys_for(int64_t rows) {
  auto n2 = static_cast<int64_t>(std::sqrt(static_cast<double>(rows)));
  while (n2 * n2 < rows) ++n2;
  while (n2 > 1 && (n2 - 1) * (n2 - 1) >= rows) --n2;
  return {(rows + n2 - 1) / n2, n2};
}

void ProductKeyMemoryOptions::fields(ConfigFields& f) {
  MemoryLayerOptions::fields(f);
  f.choice("addressing", addressing, "pairs of keys beyond the last row: masked out, or wrapped around",
           {{"mask", RowAddressing::mask}, {"modulo", RowAddressing::modulo}});
}

ProductKeyMemory::ProductKeyMemory(const std::string& name, const ProductKeyMemoryOptions& options, TablePtr table,
                                   uint64_t seed, std::shared_ptr<QueryNet> query_net)
    : MemoryLayer("ProductKeyMemory", name, options, table, product_addresses(options, table), seed,
                  std::move(query_net)),
      addressing_(options.addressing) {
  const auto [n1, n2] = sub_keys_for(table->rows());
  const int64_t heads = this->options().heads, half = half_width();
  const double bound = 1 / std::sqrt(static_cast<double>(half));
  keys1 = register_parameter("keys1", uniform_start(seed, name + ".keys1", {heads, n1, half}, bound));
  keys2 = register_parameter("keys2", uniform_start(seed, name + ".keys2", {heads, n2, half}, bound));
}

std::tuple<at::Tensor, at::Tensor> ProductKeyMemory::search(const at::Tensor& query) {
  const int64_t addresses = addressing_ == RowAddressing::mask ? table()->rows() : sub_keys1() * sub_keys2();
  const auto type = query.scalar_type();
  return product_key_search(query, scaled_keys(keys1, type), scaled_keys(keys2, type), options().top_k, addresses);
}

}  // namespace loci
