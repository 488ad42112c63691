// The tokens that count, among those that a block is given.
//
// Legend: T tokens, T' those whose mask is true.
#pragma once

#include <ATen/core/Tensor.h>

#include <string>

#include "loci/nn/block_context.h"

namespace loci {

// Positions [T'] of the tokens whose mask is true, among T; undefined: all are. Throws c10::Error in the name of `who`
// for a mask of another type or size.
at::Tensor valid_positions(const std::string& who, int64_t tokens, const BlockContext& context);
// The rows of x [T, ...] at these positions.
at::Tensor take_tokens(const at::Tensor& x, const at::Tensor& positions);
// Their inverse: y [T', ...] at these positions of [T, ...], zeros elsewhere.
at::Tensor put_tokens(const at::Tensor& y, const at::Tensor& positions, int64_t tokens);

}  // namespace loci
