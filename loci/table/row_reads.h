// Reads of the rows of a store, with their gradients: the common part of the tables whose rows are in a process.
//
// Legend: T tokens, K reads of a token, D width.
//
// Under autograd, backward gives the gradient of weight or x, and leaves row references (row_gradient.h) at the store
// unless it is frozen. Shapes, dtypes and errors: Table::read, Table::project. index counts from the store's first row.
#pragma once

#include <optional>

#include "loci/table/row_store.h"

namespace loci {

enum class RowAccess { read, project };

// table_read or table_project of `input`, without row references.
at::Tensor access_rows(RowAccess access, const at::Tensor& values, const at::Tensor& index, const at::Tensor& input,
                       const std::optional<at::Tensor>& scale);

at::Tensor read_rows(RowStore& rows, const at::Tensor& index, const at::Tensor& weight, int64_t use);  // [T, D]
at::Tensor project_rows(RowStore& rows, const at::Tensor& index, const at::Tensor& x, int64_t use);    // [T, K]

}  // namespace loci
