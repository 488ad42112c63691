// Legend: T tokens of this rank, K reads of a token, N rows, D width, P ranks; S and C: row_exchange.h.
#include "loci/table/sharded_table.h"

#include <array>
#include <optional>
#include <span>
#include <string>
#include <utility>

#include "loci/base/check.h"
#include "loci/distributed/exchange_plan.h"
#include "loci/distributed/row_exchange.h"
#include "loci/ops/operator.h"
#include "loci/table/row_reads.h"

namespace loci {
namespace {

using at::Tensor;

// Where the rows of each rank begin, and N at the end.
std::vector<int64_t> parts_of(const Ranks& ranks, const RowStore& here) {
  const std::vector<int64_t> mine = {here.first_row(), here.rows_here(), here.width(),
                                     static_cast<int64_t>(here.values().scalar_type())};
  const auto all = swap_numbers(ranks, std::vector(static_cast<size_t>(ranks.size), mine));
  std::vector<int64_t> first = {0};
  for (size_t p = 0; p < all.size(); ++p) {
    const std::string who = "table " + here.name() + ", rank " + std::to_string(p);
    if (all[p][0] != first.back()) {
      fail(ExitCode::usage, who, "rows must begin at " + std::to_string(first.back()), std::to_string(all[p][0]));
    }
    if (all[p][2] != mine[2] || all[p][3] != mine[3]) {
      fail(ExitCode::usage, who, "width and dtype must be those of rank " + std::to_string(ranks.rank),
           "width " + std::to_string(all[p][2]) + ", dtype " + toString(static_cast<at::ScalarType>(all[p][3])));
    }
    first.push_back(first.back() + all[p][1]);
  }
  return first;
}

struct PassHandle : torch::CustomClassHolder {
  PassHandle(std::shared_ptr<RowStore> rows, std::shared_ptr<const RowExchange> exchange)
      : rows(std::move(rows)), exchange(std::move(exchange)) {}
  std::shared_ptr<RowStore> rows;
  std::shared_ptr<const RowExchange> exchange;
};

// saved: the rows here, the exchange's index [S, C], and the input as it came here (row_reads.cpp has the formulas).
template <RowAccess kAccess>
std::vector<Tensor> sharded_gradient(const BackwardPass& pass) {
  constexpr bool kRead = kAccess == RowAccess::read;
  const Tensor &values = pass.saved[0], &index = pass.saved[1], &input = pass.saved[2];
  const auto handle = pass.constants[0].toCapsule();
  RowStore& rows = *static_cast<PassHandle&>(*handle).rows;
  const RowExchange& exchange = *static_cast<PassHandle&>(*handle).exchange;
  const Tensor sent = pass.grad[0].detach();
  const Tensor grad = kRead ? exchange.send_tokens(sent) : exchange.send_reads(sent);
  if (!rows.frozen()) {
    rows.references().add(
        {index, kRead ? input : grad, kRead ? grad : input, pass.constants[1].toInt(), pass.constants[2].toInt()});
  }
  if (!pass.needed[1]) return {Tensor(), Tensor()};
  if (kRead)
    return {Tensor(), exchange.return_reads(access_rows(RowAccess::project, values, index, grad, rows.scale()))};
  return {Tensor(), exchange.return_sums(access_rows(RowAccess::read, values, index, grad, rows.scale()))};
}

template <RowAccess kAccess>
Tensor sharded_access(const char* who, const Ranks& ranks, const std::vector<int64_t>& first,
                      const std::shared_ptr<RowStore>& rows, const Tensor& index, const Tensor& input, int64_t use) {
  rows->references().check_use(use);
  return once_differentiable<sharded_gradient<kAccess>>(who, {rows->values(), input}, [&] {
    const auto exchange = std::make_shared<const RowExchange>(ranks, first, index);
    const Tensor& here = exchange->index();
    rows->prefetch({here.const_data_ptr<int64_t>(), static_cast<size_t>(here.numel())});
    constexpr bool kRead = kAccess == RowAccess::read;
    const Tensor came = kRead ? exchange->send_reads(input) : exchange->send_tokens(input);
    const Tensor result = access_rows(kAccess, rows->values(), here, came, rows->scale());
    const Tensor out = kRead ? exchange->return_sums(result) : exchange->return_reads(result);
    const auto handle = c10::make_intrusive<PassHandle>(rows, exchange);
    return ForwardPass{{out},
                       {rows->values(), here, came},
                       {c10::IValue::make_capsule(handle), rows->references().next_pass(use), use}};
  })[0];
}

}  // namespace

ShardedTable::ShardedTable(Ranks ranks, std::shared_ptr<RowStore> here)
    : ShardedTable(ranks, here, parts_of(ranks, *here)) {}

ShardedTable::ShardedTable(Ranks ranks, std::shared_ptr<RowStore> here, std::vector<int64_t> first)
    : Table(here->name(), first.back(), here->width()),
      ranks_(std::move(ranks)),
      first_(std::move(first)),
      here_(std::move(here)) {}

RowRange ShardedTable::equal_part(int64_t rows, const Ranks& ranks) {
  const std::vector<int64_t> first = equal_parts(rows, ranks.size);
  const auto rank = static_cast<size_t>(ranks.rank);
  return {first[rank], first[rank + 1] - first[rank]};
}

void ShardedTable::check_index(const char* who, const Tensor& index) const {
  TORCH_CHECK(index.dim() == 2 && index.scalar_type() == at::kLong && index.device() == device(), who,
              ": index must be int64 [T, K] on ", device(), ", got ", index.scalar_type(), " ", index.sizes(), " on ",
              index.device());
  if (index.numel() == 0) return;
  const auto least = index.min().item<int64_t>(), most = index.max().item<int64_t>();
  TORCH_CHECK_INDEX(least >= 0 && most < rows(), who, ": index must be within 0 .. ", rows() - 1, ", got ",
                    least < 0 ? least : most);
}

Tensor ShardedTable::read(const Tensor& index, const Tensor& weight, int64_t use) {
  check_index("ShardedTable::read", index);
  TORCH_CHECK(weight.scalar_type() == sum_dtype() && weight.sizes() == index.sizes(),
              "ShardedTable::read: weight must be ", sum_dtype(), " ", index.sizes(), ", got ", weight.scalar_type(),
              " ", weight.sizes());
  return sharded_access<RowAccess::read>("ShardedTable::read", ranks_, first_, here_, index, weight, use);
}

Tensor ShardedTable::project(const Tensor& index, const Tensor& x, int64_t use) {
  check_index("ShardedTable::project", index);
  const std::array<int64_t, 2> shape = {index.size(0), width()};
  const at::IntArrayRef expected = shape;
  TORCH_CHECK(x.scalar_type() == sum_dtype() && x.sizes() == expected, "ShardedTable::project: x must be ", sum_dtype(),
              " ", expected, ", got ", x.scalar_type(), " ", x.sizes());
  return sharded_access<RowAccess::project>("ShardedTable::project", ranks_, first_, here_, index, x, use);
}

void ShardedTable::prefetch(const Tensor& rows) {
  check_index("ShardedTable::prefetch", rows.reshape({1, -1}));
}

}  // namespace loci
