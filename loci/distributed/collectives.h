// Collective operations of torch.distributed, as functions of tensors. Every rank of the group calls the same ones in
// the same order. A lost or silent rank throws Error (peer).
//
// Legend: P ranks.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace loci {

// A process group of torch.distributed as this process sees it.
struct Ranks {
  std::string group;  // the name that torch.distributed has it under
  int64_t rank = 0;
  int64_t size = 1;  // P
};

// Throws Error (usage) when this process has no group of that name.
Ranks ranks_of(const std::string& group);

// A collective operation that has begun. Several that have begun before the first wait() cost about the time of one,
// for a rank sleeps and wakes once for all of them. All ranks wait in the same order.
struct Begun {
  std::string who;    // for errors
  at::Tensor result;  // whole only after wait()
  std::function<at::Tensor(const at::Tensor&)> finish{};

  at::Tensor wait() const;
};

// Rows of `input` to each rank, and rows from each: input has sum(to) rows, rank by rank, the result sum(from). All
// ranks give tensors of one dtype and of one shape but for the number of rows.
at::Tensor all_to_all(const Ranks& ranks, const at::Tensor& input, const std::vector<int64_t>& to,
                      const std::vector<int64_t>& from);
Begun begin_all_to_all(const Ranks& ranks, const at::Tensor& input, const std::vector<int64_t>& to,
                       const std::vector<int64_t>& from);

// A row of numbers to each rank, and what each rank sent here: to[p] -> result[p]. All ranks send rows of one length.
std::vector<std::vector<int64_t>> swap_numbers(const Ranks& ranks, const std::vector<std::vector<int64_t>>& to);

// x [n, ...] of every rank, in the order of ranks: [P, n, ...]. All ranks give tensors of one dtype and one shape.
at::Tensor all_gather(const Ranks& ranks, const at::Tensor& x);

// The same for different n: x [counts[p], ...] of rank p, one below the other. A message is as long as that of the rank
// with most rows.
at::Tensor all_gather_rows(const Ranks& ranks, const at::Tensor& x, const std::vector<int64_t>& counts);
Begun begin_all_gather_rows(const Ranks& ranks, const at::Tensor& x, const std::vector<int64_t>& counts);

// For OptimizerSet: sums tensors over the ranks, in place, by one message for each dtype. Sums have the same bits on
// all ranks.
std::function<void(const std::vector<at::Tensor>&)> sum_over(const Ranks& ranks);

// The mean of the ranks' numbers, with the same bits on all ranks; NaN where one is.
double mean_over(const Ranks& ranks, double value);

}  // namespace loci
