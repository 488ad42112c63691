// What the definitions of table_read and table_project share with their CPU path and with tests.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>

namespace loci {

void check_table_and_index(const char* who, const at::Tensor& table, const at::Tensor& index,
                           const std::optional<at::Tensor>& scale);
// A vector of each token: grad or x, called `name`, is [T, D].
void check_token_vectors(const char* who, const char* name, const at::Tensor& x, const at::Tensor& table,
                         const at::Tensor& index);
void check_table_read(const at::Tensor& table, const at::Tensor& index, const at::Tensor& weight,
                      const std::optional<at::Tensor>& scale);
void check_table_project(const at::Tensor& table, const at::Tensor& index, const at::Tensor& x,
                         const std::optional<at::Tensor>& scale);

// Refuses an index outside 0 .. N - 1 with an IndexError: on CPU always; elsewhere the device's index_select checks.
void check_index_range(const char* who, const at::Tensor& table, const at::Tensor& index);
[[noreturn]] void fail_index(const char* who, int64_t rows, int64_t index);

// The rows of every token's read number r, [T, D] in `type`, and their scales, [T, 1].
at::Tensor rows_of_read(const at::Tensor& table, const at::Tensor& index, int64_t r, at::ScalarType type);
at::Tensor scales_of_read(const at::Tensor& scale, const at::Tensor& index, int64_t r);

at::Tensor table_read_definition(const at::Tensor& table, const at::Tensor& index, const at::Tensor& weight,
                                 const std::optional<at::Tensor>& scale = std::nullopt);
at::Tensor table_project_definition(const at::Tensor& table, const at::Tensor& index, const at::Tensor& x,
                                    const std::optional<at::Tensor>& scale = std::nullopt);

}  // namespace loci
