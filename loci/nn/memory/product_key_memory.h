// Product-key memory (Lample et al. 2019, "Large Memory Layers with Product Keys").
//
// Legend: T tokens (leading dimensions flattened), d width, H heads, K top_k, w half a key's width, n1, n2 sub-keys,
// R rows of the table, D value width.
//
//   q = norm(net(x))                                                    [T, H, 2, w]
//   score, address = product_key_search(q, keys1, keys2, K)             [T, H, K]
//   weight = softmax over K, per head, in float32                       [T, H, K]
//   y = sum over h, r of weight * table[row(address)]                   [T, D]   heads are summed
//   output = map(y)                                                     [T, d]
//
// The table is the user's object; layers that share it own their query nets and keys. Formulas and defaults:
// docs/product-key-memory.md.
#pragma once

#include "loci/nn/memory/memory_layer.h"

namespace loci {

enum class RowAddressing { mask, modulo };  // what becomes of addresses beyond the table's rows

struct ProductKeyMemoryOptions : MemoryLayerOptions {
  RowAddressing addressing = RowAddressing::mask;
  void fields(ConfigFields& f);
};

// Sub-keys of the halves for a table: n2 = ceil(sqrt(rows)), n1 = ceil(rows / n2).
struct SubKeys {
  int64_t n1, n2;
};
SubKeys sub_keys_for(int64_t rows);

class ProductKeyMemory : public MemoryLayer {
 public:
  // Draws its parameters by counter from (seed, `name`, tensor, position). `query_net`: none, so that the options make
  // one, or one's own. Throws Error (usage) for options that do not fit each other or the table; warns on stderr for
  // top_k = 1 with softmax (keys and query net would get no gradient).
  ProductKeyMemory(const std::string& name, const ProductKeyMemoryOptions& options, TablePtr table, uint64_t seed,
                   std::shared_ptr<QueryNet> query_net = nullptr);

  RowAddressing addressing() const { return addressing_; }
  int64_t sub_keys1() const { return keys1.size(1); }
  int64_t sub_keys2() const { return keys2.size(1); }

  at::Tensor keys1, keys2;  // [H, n1, w], [H, n2, w]

 protected:
  std::tuple<at::Tensor, at::Tensor> search(const at::Tensor& query) override;

 private:
  RowAddressing addressing_;
};

}  // namespace loci
