// What a block is given in addition to its input.
#pragma once

#include <ATen/core/Generator.h>
#include <ATen/core/Tensor.h>

#include <optional>

namespace loci {

struct BlockContext {
  // bool, one per token, or undefined for all true. False: output 0, no references, no counters, no statistics.
  at::Tensor token_mask;
  // For dropout; none: the framework's default generator.
  std::optional<at::Generator> generator;
};

}  // namespace loci
