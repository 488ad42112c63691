// Memory with flat keys: a whole key per row and head, searched by comparing all of them. The reference and the
// comparison of Lample et al. 2019 (section 3.1): its cost grows with the rows.
//
// Legend: T tokens, H heads, K top_k, w half a key's width, R rows.
//
//   score [T, H, R] = <q, keys>, the K best per head, equal scores: the lower row first; the rest as in
//   product_key_memory.h. Halves of query and keys are normalised alike, so that flat keys that are all pairs of two
//   sets of sub-keys give the product-key memory.
#pragma once

#include "loci/nn/memory/memory_layer.h"

namespace loci {

class FlatKeyMemory : public MemoryLayer {
 public:
  // As ProductKeyMemory.
  FlatKeyMemory(const std::string& name, const MemoryLayerOptions& options, TablePtr table, uint64_t seed,
                std::shared_ptr<QueryNet> query_net = nullptr);

  at::Tensor keys;  // [H, R, 2w]

 protected:
  std::tuple<at::Tensor, at::Tensor> search(const at::Tensor& query) override;
};

}  // namespace loci
