// PEER: a million tiny experts (He 2024, "Mixture of A Million Experts"). A row is an expert of one hidden unit.
//
// Legend: T tokens, d width, H heads, K top_k, R rows, D width of a row of `up`.
//
//   index, weight as in product_key_memory.h                                [T, H, K]
//   y = sum over h, r of weight * activation(<down[row], x>) * up[row]      [T, D]
//
// `down` [R, d] and `up` [R, D] are tables of the user. No tensor of H * K * d numbers per token is ever made.
#pragma once

#include "loci/nn/memory/product_key_memory.h"

namespace loci {

enum class PeerActivation { gelu, relu };  // gelu: exact

class PeerMemory : public ProductKeyMemory {
 public:
  // As ProductKeyMemory.
  PeerMemory(const std::string& name, const ProductKeyMemoryOptions& options, TablePtr down, TablePtr up, uint64_t seed,
             PeerActivation activation = PeerActivation::gelu, std::shared_ptr<QueryNet> query_net = nullptr);

  const TablePtr& down() const { return down_; }
  const TablePtr& up() const { return table(); }

 protected:
  at::Tensor read(const at::Tensor& x, const at::Tensor& index, const at::Tensor& weight) override;
  std::vector<TablePtr> tables() const override { return {table(), down_}; }

 private:
  TablePtr down_;
  PeerActivation activation_;
  int64_t down_use_ = 0;
};

}  // namespace loci
