// One pass of reads of a table that is in parts on several ranks: what goes to the ranks that hold the parts, and what
// comes back. All ranks make it and call its functions together, in the same order.
//
// Legend: T tokens here, K reads of a token, D width, P ranks; A reads of C rows at most that came here, and E columns
// of the vectors here.
#pragma once

#include <ATen/core/Tensor.h>

namespace loci {

class ReadExchange {
 public:
  virtual ~ReadExchange() = default;

  // values [T, K] that were sent with the row numbers, as send_reads brings them; undefined without.
  const at::Tensor& came_along() const { return came_along_; }

  // [A, C] int64: rows that are read here, counted from the first row here.
  virtual const at::Tensor& index() const = 0;

  virtual at::Tensor send_reads(const at::Tensor& values) const = 0;    // [T, K] -> [A, C]
  virtual at::Tensor send_tokens(const at::Tensor& vectors) const = 0;  // [T, D] -> [A, E], that of the reads' token
  // [A, C] -> [T, K] and [A, E] -> [T, D]. What several ranks have of a number is summed in their order.
  virtual at::Tensor return_reads(const at::Tensor& values) const = 0;
  virtual at::Tensor return_sums(const at::Tensor& vectors) const = 0;

 protected:
  at::Tensor came_along_;
};

}  // namespace loci
