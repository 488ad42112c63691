// Where the positions of non-local blocks look, for the pictures of the report (docs/non-local.md).
//
// Legend: T frames, H height, W width of a block's map; t, h, w those of its keys, after pooling.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <vector>

#include "loci/nn/relation/non_local.h"

namespace loci {

// While it lives, the blocks keep the first `samples` samples that they get.
class KeptInputs {
 public:
  KeptInputs(NamedNonLocals blocks, int64_t samples);
  ~KeptInputs();
  KeptInputs(const KeptInputs&) = delete;
  KeptInputs& operator=(const KeptInputs&) = delete;

  // Of every sample that was kept last a list with an object for each block: `block` (its name), `map` [T, H, W],
  // `keys` [t, h, w] and `queries`: `queries` positions of the map to which the block adds the largest vectors, apart
  // from each other, largest first: `at` [frame, y, x], `adds` (the norm of what is added over that of x) and `weight`:
  // t h w shares of the keys, frames first, rounded to four digits behind the point.
  std::vector<nlohmann::json> attention_maps(int64_t queries = 3) const;

 private:
  NamedNonLocals blocks_;
};

}  // namespace loci
