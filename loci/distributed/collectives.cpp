// Legend: P ranks.
#include "loci/distributed/collectives.h"

#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/stack.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/scalar_tensor.h>
#include <ATen/ops/zeros.h>
#include <c10/util/Exception.h>
#include <torch/csrc/distributed/c10d/GroupRegistry.hpp>

#include <algorithm>
#include <map>
#include <utility>

#include "loci/base/check.h"
#include "loci/distributed/peer_errors.h"

namespace loci {
namespace {

using at::Tensor;

constexpr const char* kAllTakePart = "every rank must take part";

// Called boxed: the type of a group's name in the schema differs between versions of torch.
Tensor call(const char* name, torch::jit::Stack stack) {
  const std::string full = std::string("_c10d_functional::") + name;
  c10::Dispatcher::singleton().findSchemaOrThrow(full.c_str(), "").callBoxed(stack);
  return stack.at(0).toTensor();
}

Begun begin(const Ranks& ranks, const char* name, const torch::jit::Stack& stack) {
  const std::string who = "rank " + std::to_string(ranks.rank) + " of " + std::to_string(ranks.size) + ", " + name;
  return {who, with_peer_errors(who, kAllTakePart, [&] { return call(name, stack); })};
}

int64_t sum_of(const std::vector<int64_t>& numbers) {
  int64_t sum = 0;
  for (const int64_t n : numbers) sum += n;
  return sum;
}

}  // namespace

Ranks ranks_of(const std::string& group) {
  try {
    const auto found = c10d::resolve_process_group(group);
    return {group, found->getRank(), found->getSize()};
  } catch (const c10::Error&) {
    fail(ExitCode::usage, "process group", "group must name one of this process", group);
  }
}

Begun::~Begun() {
  if (who_.empty() || !came_.defined()) return;
  try {
    call("wait_tensor", {came_});
  } catch (const std::exception&) {
  }
}

Tensor Begun::wait() {
  const Tensor came = std::exchange(came_, {});
  const Tensor whole =
      who_.empty() ? came : with_peer_errors(who_, kAllTakePart, [&] { return call("wait_tensor", {came}); });
  return finish_ ? finish_(whole) : whole;
}

Begun Begun::then(Finish finish) && {
  Finish all = [first = std::move(finish_), second = std::move(finish)](const Tensor& came) {
    return second(first ? first(came) : came);
  };
  return {std::move(who_), std::move(came_), std::move(all)};
}

Begun begin_all_to_all(const Ranks& ranks, const Tensor& input, const std::vector<int64_t>& to,
                       const std::vector<int64_t>& from) {
  TORCH_CHECK(input.dim() >= 1 && input.size(0) == sum_of(to), "all_to_all: input must have ", sum_of(to),
              " rows, got ", input.sizes());
  if (ranks.size == 1) return {"", input};
  return begin(ranks, "all_to_all_single", {input.contiguous(), from, to, ranks.group});
}

Tensor all_to_all(const Ranks& ranks, const Tensor& input, const std::vector<int64_t>& to,
                  const std::vector<int64_t>& from) {
  return begin_all_to_all(ranks, input, to, from).wait();
}

std::vector<std::vector<int64_t>> swap_numbers(const Ranks& ranks, const std::vector<std::vector<int64_t>>& to) {
  const auto count = static_cast<int64_t>(to.front().size());
  Tensor sent = at::empty({ranks.size, count}, at::kLong);
  auto* out = sent.mutable_data_ptr<int64_t>();
  for (const auto& row : to) out = std::copy(row.begin(), row.end(), out);
  const std::vector<int64_t> one(static_cast<size_t>(ranks.size), 1);
  const Tensor received = all_to_all(ranks, sent, one, one);
  std::vector<std::vector<int64_t>> result;
  const auto* in = received.const_data_ptr<int64_t>();
  for (int64_t p = 0; p < ranks.size; ++p, in += count) result.emplace_back(in, in + count);
  return result;
}

namespace {

Begun begin_all_gather(const Ranks& ranks, const Tensor& x) {
  TORCH_CHECK(x.dim() >= 1, "all_gather: x must be [n, ...], got ", x.sizes());
  if (ranks.size == 1) return {"", x.unsqueeze(0)};
  std::vector<int64_t> sizes = x.sizes().vec();
  sizes.insert(sizes.begin(), ranks.size);
  return begin(ranks, "all_gather_into_tensor", {x.contiguous(), ranks.size, ranks.group})
      .then([sizes](const Tensor& all) { return all.view(sizes); });
}

}  // namespace

Tensor all_gather(const Ranks& ranks, const Tensor& x) {
  return begin_all_gather(ranks, x).wait();
}

Begun begin_all_gather_rows(const Ranks& ranks, const Tensor& x, const std::vector<int64_t>& counts) {
  const int64_t mine = counts.at(static_cast<size_t>(ranks.rank)), most = *std::ranges::max_element(counts);
  TORCH_CHECK(x.dim() >= 1 && x.size(0) == mine, "all_gather_rows: x must have ", mine, " rows, got ", x.sizes());
  if (most == 0) return {"", x};
  Tensor sent = x;
  if (mine < most) {
    std::vector<int64_t> sizes = x.sizes().vec();
    sizes[0] = most;
    sent = at::zeros(sizes, x.options());
    sent.narrow(0, 0, mine).copy_(x);
  }
  return begin_all_gather(ranks, sent).then([counts, most](const Tensor& all) {
    if (*std::ranges::min_element(counts) == most) return all.flatten(0, 1);
    std::vector<Tensor> parts;
    for (size_t p = 0; p < counts.size(); ++p) parts.push_back(all[static_cast<int64_t>(p)].narrow(0, 0, counts[p]));
    return at::cat(parts);
  });
}

Tensor all_gather_rows(const Ranks& ranks, const Tensor& x, const std::vector<int64_t>& counts) {
  return begin_all_gather_rows(ranks, x, counts).wait();
}

std::function<void(const std::vector<Tensor>&)> sum_over(const Ranks& ranks) {
  return [ranks](const std::vector<Tensor>& tensors) {
    if (ranks.size == 1) return;
    std::map<at::ScalarType, std::vector<Tensor>> by_dtype;
    for (const Tensor& tensor : tensors) by_dtype[tensor.scalar_type()].push_back(tensor);
    std::vector<Begun> sums;
    for (const auto& [dtype, of_dtype] : by_dtype) {
      std::vector<Tensor> flat;
      for (const Tensor& tensor : of_dtype) flat.push_back(tensor.reshape({-1}));
      sums.push_back(begin(ranks, "all_reduce", {at::cat(flat), std::string("sum"), ranks.group}));
    }
    size_t begun = 0;
    for (const auto& [dtype, of_dtype] : by_dtype) {
      const Tensor sum = sums[begun++].wait();
      int64_t first = 0;
      for (const Tensor& tensor : of_dtype) {
        tensor.copy_(sum.narrow(0, first, tensor.numel()).view(tensor.sizes()));
        first += tensor.numel();
      }
    }
  };
}

double mean_over(const Ranks& ranks, double value) {
  if (ranks.size == 1) return value;
  const Tensor sum = at::scalar_tensor(value, at::kDouble);
  sum_over(ranks)({sum});
  return sum.item<double>() / static_cast<double>(ranks.size);
}

}  // namespace loci
