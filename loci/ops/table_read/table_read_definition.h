// What the definition of table_read shares with its CPU path and with tests.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>

namespace loci {

void check_table_read(const at::Tensor& table, const at::Tensor& index, const at::Tensor& weight,
                      const std::optional<at::Tensor>& scale);
void check_table_read_backward_weight(const at::Tensor& grad, const at::Tensor& table, const at::Tensor& index,
                                      const std::optional<at::Tensor>& scale);
void check_table_read_backward_table(const at::Tensor& grad, const at::Tensor& table, const at::Tensor& index,
                                     const at::Tensor& weight);
// IndexError naming an index outside 0 .. rows - 1.
[[noreturn]] void fail_index(const char* who, int64_t rows, int64_t index);

at::Tensor table_read_definition(const at::Tensor& table, const at::Tensor& index, const at::Tensor& weight,
                                 const std::optional<at::Tensor>& scale = std::nullopt);
at::Tensor table_read_backward_weight_definition(const at::Tensor& grad, const at::Tensor& table,
                                                 const at::Tensor& index,
                                                 const std::optional<at::Tensor>& scale = std::nullopt);

}  // namespace loci
