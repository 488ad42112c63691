// Reads of a ShardedTable as registered operators, for Python. Every rank calls them, and their backward, together.
//
// Legend: T tokens of this rank, K reads of a token, R rows and E columns here, D width.
//
//   read_shards(values [R, E], index [T, K], weight [T, K], use [2], anchor, int width) -> out [T, D], receipt [3]
//   project_shards(values [R, E], index [T, K], x [T, D], use [2], anchor, int width) -> out [T, K], receipt [3]
//     as read_table and project_table (table_operators.h); index counts the rows of the whole table, width D its
//     columns: values has some of the rows, or of the columns
//   read_shards_backward(values, receipt, index, weight, grad, bool rows, bool input) -> zero [1], gradient of weight
//   project_shards_backward: the same for x
//     rows: leave the references at the ranks that hold the rows. input: compute the gradient, which is [0] otherwise
//
// The receipt owns what the forward pass exchanged. Backward with a copy of it, as hooks of saved tensors
// make, exchanges the same again: then all ranks must have copied it.
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/zeros.h>

#include <array>
#include <tuple>
#include <utility>
#include <vector>

#include "loci/ops/operator.h"
#include "loci/table/sharded_reads.h"
#include "loci/table/table_operators.h"

namespace loci {
namespace {

using at::Tensor;
using Pair = std::tuple<Tensor, Tensor>;

constexpr const char* shards_name(RowAccess access) {
  return access == RowAccess::read ? "read_shards" : "project_shards";
}

struct Receipt {
  std::array<int64_t, 3> numbers;  // of the store, the layer, its pass
  ShardedPass pass;
};

void delete_receipt(void* receipt) {
  delete static_cast<Receipt*>(receipt);
}

Tensor tensor_of(std::array<int64_t, 3> numbers, ShardedPass pass) {
  auto* receipt = new Receipt{numbers, std::move(pass)};
  return at::for_blob(receipt->numbers.data(), {3}).context(receipt, delete_receipt).options(at::kLong).make_tensor();
}

// Null for a copy.
const ShardedPass* pass_of(const Tensor& receipt) {
  const auto* owned = receipt.storage().data_ptr().cast_context<Receipt>(delete_receipt);
  return owned == nullptr ? nullptr : &owned->pass;
}

std::pair<std::shared_ptr<RowStore>, std::shared_ptr<const RowShards>> sharded_rows(const char* who,
                                                                                    const Tensor& numbers,
                                                                                    int64_t count) {
  const NamedRows rows = rows_of_use(who, numbers, count);
  TORCH_CHECK(rows.shards != nullptr, who, ": the table must be on several ranks, got one with all rows here");
  return {rows.store, rows.shards};
}

template <RowAccess kAccess>
Pair shards_definition(const Tensor& values, const Tensor& index, const Tensor& input, const Tensor& use,
                       const Tensor& /*anchor*/, int64_t width) {
  if (values.is_meta()) {
    const c10::SymInt columns = kAccess == RowAccess::read ? c10::SymInt(width) : index.sym_size(1);
    return {at::empty_symint({index.sym_size(0), columns}, input.options()),
            at::empty({3}, at::TensorOptions().dtype(at::kLong).device(use.device()))};
  }
  const char* who = shards_name(kAccess);
  const auto [store, shards] = sharded_rows(who, use, 2);
  const auto layer = use[1].item<int64_t>();
  check_sharded_access(who, kAccess, *shards, *store, index, input);
  store->references().check_use(layer);
  ShardedPass pass = begin_pass(kAccess, *shards, index, input);
  const Tensor out = access_shards(kAccess, pass, *store);
  return {out, tensor_of({use[0].item<int64_t>(), layer, store->references().next_pass(layer)}, std::move(pass))};
}

template <RowAccess kAccess>
Pair shards_backward_definition(const Tensor& values, const Tensor& receipt, const Tensor& index, const Tensor& input,
                                const Tensor& grad, bool rows_wanted, bool input_wanted) {
  const Tensor zero = at::zeros({1}, at::TensorOptions().dtype(at::kFloat).device(receipt.device()));
  if (values.is_meta()) {
    return {zero,
            input_wanted ? at::empty_symint(input.sym_sizes(), input.options()) : at::empty({0}, input.options())};
  }
  const auto [store, shards] = sharded_rows(shards_name(kAccess), receipt, 3);
  const ShardedPass* kept = pass_of(receipt);
  const ShardedPass pass = kept != nullptr ? *kept : begin_pass(kAccess, *shards, index, input);
  auto [gradient, references] = gradient_of_shards(kAccess, pass, *store, grad, input_wanted);
  references.use = receipt[1].item<int64_t>();
  references.pass = receipt[2].item<int64_t>();
  if (rows_wanted && !store->frozen()) store->references().add(std::move(references));
  return {zero, input_wanted ? gradient : at::empty({0}, input.options())};
}

template <RowAccess kAccess>
Pair call_shards(const Tensor& values, const Tensor& index, const Tensor& input, const Tensor& use,
                 const Tensor& anchor, int64_t width) {
  using Signature = Pair(const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&, int64_t);
  if constexpr (kAccess == RowAccess::read) {
    return call_operator<"loci::read_shards", Signature>(values, index, input, use, anchor, width);
  } else {
    return call_operator<"loci::project_shards", Signature>(values, index, input, use, anchor, width);
  }
}

template <RowAccess kAccess>
Pair call_shards_backward(const Tensor& values, const Tensor& receipt, const Tensor& index, const Tensor& input,
                          const Tensor& grad, bool rows_wanted, bool input_wanted) {
  using Signature = Pair(const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&, bool, bool);
  constexpr auto call = [](auto&&... arguments) {
    if constexpr (kAccess == RowAccess::read) {
      return call_operator<"loci::read_shards_backward", Signature>(arguments...);
    } else {
      return call_operator<"loci::project_shards_backward", Signature>(arguments...);
    }
  };
  return call(values, receipt, index, input, grad, rows_wanted, input_wanted);
}

template <RowAccess kAccess>
std::vector<Tensor> shards_gradient(const BackwardPass& pass) {
  const bool rows = pass.needed[0], input = pass.needed[1];
  const auto [zero, gradient] = call_shards_backward<kAccess>(pass.saved[0], pass.saved[1], pass.saved[2],
                                                              pass.saved[3], pass.grad[0].contiguous(), rows, input);
  return {rows ? zero : Tensor(), input ? gradient : Tensor()};
}

template <RowAccess kAccess>
Pair shards_autograd(const Tensor& values, const Tensor& index, const Tensor& input, const Tensor& use,
                     const Tensor& anchor, int64_t width) {
  const auto results = once_differentiable<shards_gradient<kAccess>>(shards_name(kAccess), {anchor, input}, [&] {
    const auto [out, receipt] = call_shards<kAccess>(values, index, input, use, anchor, width);
    return ForwardPass{{out, receipt}, {values, receipt, index, input}};
  });
  return {results[0], results[1]};
}

template <RowAccess kAccess>
void define_shards(torch::Library& m) {
  const std::string name = shards_name(kAccess);
  define_operator(m,
                  name +
                      "(Tensor values, Tensor index, Tensor input, Tensor use, Tensor anchor, int width) -> "
                      "(Tensor, Tensor)",
                  shards_definition<kAccess>, shards_autograd<kAccess>);
  define_operator(m,
                  name +
                      "_backward(Tensor values, Tensor receipt, Tensor index, Tensor input, Tensor grad, "
                      "bool rows_wanted, bool input_wanted) -> (Tensor, Tensor)",
                  shards_backward_definition<kAccess>, not_differentiable());
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(loci, m) {
  define_shards<RowAccess::read>(m);
  define_shards<RowAccess::project>(m);
}

}  // namespace loci
