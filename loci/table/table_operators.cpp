// Legend: T tokens, K reads of a token, N rows, D width.
#include "loci/table/table_operators.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <map>
#include <mutex>
#include <span>
#include <utility>
#include <vector>

#include "loci/ops/operator.h"
#include "loci/ops/table_read/table_read_definition.h"
#include "loci/table/row_reads.h"
#include "loci/table/row_store.h"
#include "loci/table/sharded_table.h"

namespace loci {
namespace {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;
using Accessed = std::tuple<Tensor, Tensor>;

// The stores by their numbers. A store that is gone stays as an empty entry: its number is never given again.
class NamedStores {
 public:
  static NamedStores& all() {
    static auto* stores = new NamedStores;  // outlives all objects of Python
    return *stores;
  }
  int64_t number_of(const NamedRows& rows) {
    const std::scoped_lock lock(mutex_);
    const auto [entry, added] = numbers_.try_emplace(rows.store, next_);
    if (added) stores_[next_++] = {rows.store, rows.shards};
    return entry->second;
  }
  NamedRows find(int64_t number) {
    const std::scoped_lock lock(mutex_);
    const auto entry = stores_.find(number);
    if (entry == stores_.end()) return {};
    return {entry->second.store.lock(), entry->second.shards};
  }

 private:
  struct Entry {
    std::weak_ptr<RowStore> store;
    std::shared_ptr<const RowShards> shards;
  };

  std::mutex mutex_;
  int64_t next_ = 1;
  std::map<std::weak_ptr<RowStore>, int64_t, std::owner_less<>> numbers_;
  std::map<int64_t, Entry> stores_;
};

std::shared_ptr<RowStore> store_of(const char* who, const Tensor& numbers, int64_t count) {
  const NamedRows rows = rows_of_use(who, numbers, count);
  TORCH_CHECK(rows.shards == nullptr, who, ": the rows of the table must all be here, got a table on several ranks");
  return rows.store;
}

constexpr const char* name_of(RowAccess access) {
  return access == RowAccess::read ? "read_table" : "project_table";
}

template <RowAccess kAccess>
Accessed operator_definition(const Tensor& values, const Tensor& index, const Tensor& input,
                             const OptionalTensor& scale, const Tensor& use, const Tensor& /*anchor*/) {
  const auto numbers = at::TensorOptions().dtype(at::kLong);
  if (values.is_meta()) {
    return {access_rows(kAccess, values, index, input, scale), at::empty({3}, numbers.device(use.device()))};
  }
  const auto store = store_of(name_of(kAccess), use, 2);
  const int64_t layer = use[1].item<int64_t>();
  store->references().check_use(layer);
  const Tensor rows = index.contiguous();
  check_table_and_index(name_of(kAccess), values, rows, scale);
  check_index_range(name_of(kAccess), values, rows);
  if (rows.is_cpu()) {
    store->prefetch(std::span<const int64_t>(rows.const_data_ptr<int64_t>(), static_cast<size_t>(rows.numel())));
  }
  const Tensor out = access_rows(kAccess, values, index, input, scale);
  return {out, at::tensor({use[0].item<int64_t>(), layer, store->references().next_pass(layer)}, numbers)};
}

template <RowAccess kAccess>
std::vector<Tensor> operator_gradient(const BackwardPass& pass) {
  constexpr bool kRead = kAccess == RowAccess::read;
  const Tensor &values = pass.saved[0], &index = pass.saved[1], &input = pass.saved[2];
  const OptionalTensor scale = pass.saved[3].defined() ? OptionalTensor(pass.saved[3]) : std::nullopt;
  const Tensor grad = pass.grad[0].contiguous();
  return {
      pass.needed[0] ? leave_references(pass.saved[4], index, kRead ? input : grad, kRead ? grad : input) : Tensor(),
      pass.needed[1] ? access_rows(kRead ? RowAccess::project : RowAccess::read, values, index, grad, scale)
                     : Tensor()};
}

template <RowAccess kAccess>
Accessed operator_autograd(const Tensor& values, const Tensor& index, const Tensor& input, const OptionalTensor& scale,
                           const Tensor& use, const Tensor& anchor) {
  const auto results = once_differentiable<operator_gradient<kAccess>>(name_of(kAccess), {anchor, input}, [&] {
    const auto [out, receipt] = kAccess == RowAccess::read ? read_table(values, index, input, scale, use, anchor)
                                                           : project_table(values, index, input, scale, use, anchor);
    return ForwardPass{{out, receipt}, {values, index, input, scale.value_or(Tensor()), receipt}};
  });
  return {results[0], results[1]};
}

Tensor leave_definition(const Tensor& receipt, const Tensor& index, const Tensor& weight, const Tensor& grad) {
  const Tensor zero = at::zeros({1}, at::TensorOptions().dtype(at::kFloat).device(receipt.device()));
  if (receipt.is_meta()) return zero;
  const auto store = store_of("leave_references", receipt, 3);
  const auto layer = receipt[1].item<int64_t>(), pass = receipt[2].item<int64_t>();
  if (!store->frozen()) store->references().add({index.clone(), weight.clone(), grad.clone(), pass, layer});
  return zero;
}

}  // namespace

at::Tensor use_of_table(Table& table) {
  const auto* sharded = dynamic_cast<const ShardedTable*>(&table);
  const NamedRows rows = {table.store().shared_from_this(), sharded == nullptr ? nullptr : sharded->shards()};
  return at::tensor({NamedStores::all().number_of(rows), table.register_use()}, at::kLong);
}

NamedRows rows_of_use(const char* who, const Tensor& numbers, int64_t count) {
  TORCH_CHECK(numbers.scalar_type() == at::kLong && numbers.is_cpu() && numbers.sizes() == at::IntArrayRef{count}, who,
              ": use must be int64 [", count, "] on cpu, got ", numbers.scalar_type(), " ", numbers.sizes(), " on ",
              numbers.device());
  const auto number = numbers[0].item<int64_t>();
  NamedRows rows = NamedStores::all().find(number);
  TORCH_CHECK(rows.store != nullptr, who, ": use must name a table of this process, got ", number);
  return rows;
}

Accessed read_table(const Tensor& values, const Tensor& index, const Tensor& weight, const OptionalTensor& scale,
                    const Tensor& use, const Tensor& anchor) {
  return call_operator<"loci::read_table", decltype(read_table)>(values, index, weight, scale, use, anchor);
}

Accessed project_table(const Tensor& values, const Tensor& index, const Tensor& x, const OptionalTensor& scale,
                       const Tensor& use, const Tensor& anchor) {
  return call_operator<"loci::project_table", decltype(project_table)>(values, index, x, scale, use, anchor);
}

Tensor leave_references(const Tensor& receipt, const Tensor& index, const Tensor& weight, const Tensor& grad) {
  return call_operator<"loci::leave_references", decltype(leave_references)>(receipt, index, weight, grad);
}

TORCH_LIBRARY_FRAGMENT(loci, m) {
  define_operator(m,
                  "read_table(Tensor values, Tensor index, Tensor weight, Tensor? scale, Tensor use, Tensor anchor) -> "
                  "(Tensor, Tensor)",
                  operator_definition<RowAccess::read>, operator_autograd<RowAccess::read>);
  define_operator(m,
                  "project_table(Tensor values, Tensor index, Tensor x, Tensor? scale, Tensor use, Tensor anchor) -> "
                  "(Tensor, Tensor)",
                  operator_definition<RowAccess::project>, operator_autograd<RowAccess::project>);
  define_operator(m, "leave_references(Tensor receipt, Tensor index, Tensor weight, Tensor grad) -> Tensor",
                  leave_definition, not_differentiable());
}

}  // namespace loci
