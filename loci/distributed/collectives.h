// Collective operations of torch.distributed, as functions of tensors. Every rank of the group calls the same ones in
// the same order. A lost or silent rank throws Error (peer).
//
// Legend: P ranks.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <string>
#include <utility>
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
class Begun {
 public:
  using Finish = std::function<at::Tensor(const at::Tensor&)>;

  Begun() = default;
  // `finish` makes the result of what came. `who` is for errors; empty: nothing is under way.
  Begun(std::string who, at::Tensor came, Finish finish = {})
      : who_(std::move(who)), came_(std::move(came)), finish_(std::move(finish)) {}
  Begun(Begun&&) = default;
  Begun& operator=(Begun&&) = delete;
  ~Begun();  // waits if nobody has, and drops errors: after one of another collective this one fails too

  at::Tensor wait();  // once
  Begun then(Finish finish) &&;

 private:
  std::string who_;
  at::Tensor came_;
  Finish finish_;
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
