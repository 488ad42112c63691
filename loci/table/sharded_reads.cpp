// Legend: T tokens of this rank, K reads of a token, N rows, D width, P ranks.
#include "loci/table/sharded_reads.h"

#include <array>

#include "loci/distributed/column_exchange.h"
#include "loci/distributed/row_exchange.h"

namespace loci {

using at::Tensor;

void check_sharded_index(const char* who, const RowShards& shards, const RowStore& here, const Tensor& index) {
  const int64_t rows = shards.rows;
  const at::Device device = here.values().device();
  TORCH_CHECK(index.dim() == 2 && index.scalar_type() == at::kLong && index.device() == device, who,
              ": index must be int64 [T, K] on ", device, ", got ", index.scalar_type(), " ", index.sizes(), " on ",
              index.device());
  if (index.numel() == 0) return;
  const auto least = index.min().item<int64_t>(), most = index.max().item<int64_t>();
  TORCH_CHECK_INDEX(least >= 0 && most < rows, who, ": index must be within 0 .. ", rows - 1, ", got ",
                    least < 0 ? least : most);
}

void check_sharded_access(const char* who, RowAccess access, const RowShards& shards, const RowStore& here,
                          const Tensor& index, const Tensor& input) {
  check_sharded_index(who, shards, here, index);
  const bool read = access == RowAccess::read;
  const auto sums = here.values().scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  const std::array<int64_t, 2> shape = {index.size(0), read ? index.size(1) : shards.width};
  const at::IntArrayRef expected = shape;
  TORCH_CHECK(input.scalar_type() == sums && input.sizes() == expected, who, ": ", read ? "weight" : "x", " must be ",
              sums, " ", expected, ", got ", input.scalar_type(), " ", input.sizes());
}

namespace {

std::shared_ptr<const ReadExchange> exchange_of(const RowShards& shards, const Tensor& index, const Tensor& values) {
  if (shards.parts == TableParts::rows) {
    return std::make_shared<const RowExchange>(shards.ranks, shards.first, index, values);
  }
  return std::make_shared<const ColumnExchange>(shards.ranks, shards.first, shards.rows, index, values);
}

}  // namespace

ShardedPass begin_pass(RowAccess access, const RowShards& shards, const Tensor& index, const Tensor& input) {
  const bool read = access == RowAccess::read;
  const std::shared_ptr<const ReadExchange> exchange = exchange_of(shards, index, read ? input : Tensor());
  return {exchange, read ? exchange->came_along() : exchange->send_tokens(input)};
}

Tensor access_shards(RowAccess access, const ShardedPass& pass, RowStore& here) {
  const Tensor& index = pass.exchange->index();
  here.prefetch({index.const_data_ptr<int64_t>(), static_cast<size_t>(index.numel())});
  const Tensor result = access_rows(access, here.values(), index, pass.came, here.scale());
  return access == RowAccess::read ? pass.exchange->return_sums(result) : pass.exchange->return_reads(result);
}

// The formulas: row_reads.cpp.
ShardedGradient gradient_of_shards(RowAccess access, const ShardedPass& pass, const RowStore& here, const Tensor& grad,
                                   bool input_wanted) {
  const bool read = access == RowAccess::read;
  const ReadExchange& exchange = *pass.exchange;
  const Tensor came = read ? exchange.send_tokens(grad) : exchange.send_reads(grad);
  ShardedGradient result;
  result.references = {exchange.index(), read ? pass.came : came, read ? came : pass.came};
  if (!input_wanted) return result;
  const auto other = read ? RowAccess::project : RowAccess::read;
  const Tensor gradient = access_rows(other, here.values(), exchange.index(), came, here.scale());
  result.input = read ? exchange.return_reads(gradient) : exchange.return_sums(gradient);
  return result;
}

}  // namespace loci
