// Tables for callers that hold tensors alone, such as Python: the read and the projection of rows as registered
// operators, whose backward leaves the row references at the table. So torch.compile sees whole graphs, in training
// too.
//
// Legend: T tokens, K reads of a token, N rows, D width.
//
//   read_table(values [N, D], index [T, K], weight [T, K], scale, use [2], anchor) -> out [T, D], receipt [3]
//     out[t] = sum over r of weight[t, r] * row[index[t, r]]
//   project_table(values [N, D], index [T, K], x [T, D], scale, use [2], anchor) -> out [T, K], receipt [3]
//     out[t, r] = <row[index[t, r]], x[t]>
//   leave_references(receipt [3], index [T, K], weight [T, K], grad [T, D]) -> zero [1]
//     row index[t, r] gains weight[t, r] * grad[t]
//
// use: int64, names the table, whose values and scale these are, and the layer (use_of_table). receipt: the same and
// the number of this pass of the layer, for the order in which gradients are summed. anchor: float32 [1]. Where it
// requires a gradient, that is the zero of leave_references, so that whatever takes it leaves the references too;
// compilers keep the call for its sake. Without one the rows get no gradient. A frozen table gets no references.
// leave_references copies what it is given, for compiled code uses the memory again. Rows of a mapped table are fetched
// before they are read. Gradient: to anchor and to weight or x, once. Throws c10::Error for a table that is gone.
#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <optional>
#include <tuple>

#include "loci/table/table.h"

namespace loci {

struct RowShards;

// int64 [2] on the CPU: a number of the table's rows, valid in this process for as long as they live, and a new number
// of a layer (Table::register_use).
at::Tensor use_of_table(Table& table);

struct NamedRows {
  std::shared_ptr<RowStore> store;
  std::shared_ptr<const RowShards> shards;  // of a ShardedTable; the operators below refuse those
};

// The rows that `numbers` [count], a use or a receipt, names.
NamedRows rows_of_use(const char* who, const at::Tensor& numbers, int64_t count);

std::tuple<at::Tensor, at::Tensor> read_table(const at::Tensor& values, const at::Tensor& index,
                                              const at::Tensor& weight, const std::optional<at::Tensor>& scale,
                                              const at::Tensor& use, const at::Tensor& anchor);
std::tuple<at::Tensor, at::Tensor> project_table(const at::Tensor& values, const at::Tensor& index, const at::Tensor& x,
                                                 const std::optional<at::Tensor>& scale, const at::Tensor& use,
                                                 const at::Tensor& anchor);
at::Tensor leave_references(const at::Tensor& receipt, const at::Tensor& index, const at::Tensor& weight,
                            const at::Tensor& grad);

}  // namespace loci
