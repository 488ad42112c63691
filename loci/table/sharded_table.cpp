// Legend: P ranks.
#include "loci/table/sharded_table.h"

#include <string>
#include <utility>

#include "loci/base/check.h"
#include "loci/distributed/exchange_plan.h"
#include "loci/ops/operator.h"
#include "loci/table/sharded_reads.h"

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
  PassHandle(std::shared_ptr<RowStore> rows, ShardedPass pass) : rows(std::move(rows)), pass(std::move(pass)) {}
  std::shared_ptr<RowStore> rows;
  ShardedPass pass;
};

template <RowAccess kAccess>
std::vector<Tensor> sharded_gradient(const BackwardPass& pass) {
  const auto capsule = pass.constants[0].toCapsule();
  const auto& handle = static_cast<PassHandle&>(*capsule);
  auto [input, references] =
      gradient_of_shards(kAccess, handle.pass, *handle.rows, pass.grad[0].detach(), pass.needed[1]);
  references.pass = pass.constants[1].toInt();
  references.use = pass.constants[2].toInt();
  if (!handle.rows->frozen()) handle.rows->references().add(std::move(references));
  return {Tensor(), input};
}

template <RowAccess kAccess>
Tensor sharded_access(const char* who, const RowShards& shards, const std::shared_ptr<RowStore>& rows,
                      const Tensor& index, const Tensor& input, int64_t use) {
  check_sharded_access(who, kAccess, shards, *rows, index, input);
  rows->references().check_use(use);
  return once_differentiable<sharded_gradient<kAccess>>(who, {rows->values(), input}, [&] {
    const ShardedPass pass = begin_pass(kAccess, shards, index, input);
    const auto handle = c10::make_intrusive<PassHandle>(rows, pass);
    return ForwardPass{{access_shards(kAccess, pass, *rows)},
                       {rows->values()},  // written since: backward refuses
                       {c10::IValue::make_capsule(handle), rows->references().next_pass(use), use}};
  })[0];
}

}  // namespace

ShardedTable::ShardedTable(Ranks ranks, std::shared_ptr<RowStore> here)
    : ShardedTable(RowShards{ranks, parts_of(ranks, *here)}, here) {}

ShardedTable::ShardedTable(RowShards shards, std::shared_ptr<RowStore> here)
    : Table(here->name(), shards.first.back(), here->width()),
      shards_(std::make_shared<const RowShards>(std::move(shards))),
      here_(std::move(here)) {}

RowRange ShardedTable::equal_part(int64_t rows, const Ranks& ranks) {
  const std::vector<int64_t> first = equal_parts(rows, ranks.size);
  const auto rank = static_cast<size_t>(ranks.rank);
  return {first[rank], first[rank + 1] - first[rank]};
}

Tensor ShardedTable::read(const Tensor& index, const Tensor& weight, int64_t use) {
  return sharded_access<RowAccess::read>("ShardedTable::read", *shards_, here_, index, weight, use);
}

Tensor ShardedTable::project(const Tensor& index, const Tensor& x, int64_t use) {
  return sharded_access<RowAccess::project>("ShardedTable::project", *shards_, here_, index, x, use);
}

void ShardedTable::prefetch(const Tensor& rows) {
  check_sharded_index("ShardedTable::prefetch", *shards_, *here_, rows.reshape({1, -1}));
}

}  // namespace loci
