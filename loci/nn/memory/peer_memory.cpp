#include "loci/nn/memory/peer_memory.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/gelu.h>
#include <ATen/ops/relu.h>

#include <utility>

#include "loci/base/check.h"

namespace loci {

using at::Tensor;

PeerMemory::PeerMemory(const std::string& name, const ProductKeyMemoryOptions& options, TablePtr down, TablePtr up,
                       uint64_t seed, PeerActivation activation, std::shared_ptr<QueryNet> query_net)
    : ProductKeyMemory(name, options, std::move(up), seed, std::move(query_net)),
      down_(std::move(down)),
      activation_(activation) {
  const auto refuse = [](const std::string& expected, const std::string& got) {
    fail(ExitCode::usage, "PeerMemory", expected, got);
  };
  if (!down_) refuse("down must be given", "none");
  if (down_->rows() != table()->rows()) {
    refuse(fmt::format("down must have {} rows like up", table()->rows()), std::to_string(down_->rows()));
  }
  if (down_->width() != options.width) {
    refuse(fmt::format("down must have the layer's width {}", options.width), std::to_string(down_->width()));
  }
  down_use_ = down_->register_use();
}

Tensor PeerMemory::read(const Tensor& x, const Tensor& index, const Tensor& weight) {
  const Tensor h = down_->project(index, x.to(down_->sum_dtype()), down_use_).to(weight.scalar_type());  // [T, H * K]
  const Tensor active = activation_ == PeerActivation::gelu ? at::gelu(h) : at::relu(h);
  return ProductKeyMemory::read(x, index, weight * active);
}

}  // namespace loci
