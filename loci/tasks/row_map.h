// Which rows the positions of an image read, for the pictures of the report (docs/vision-memory.md).
//
// Legend: B images, P positions of a map, H heads, K top_k.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "loci/data/image/image_file.h"
#include "loci/table/read_observer.h"

namespace loci {

// Keeps what a memory read last.
class LastReads : public ReadObserver {
 public:
  void reads(const MemoryReads& reads) override {
    index = reads.index;
    weight = reads.weight;
  }
  at::Tensor index;   // [B * P, H, K]
  at::Tensor weight;  // [B * P, H, K]
};

// Height and width of the map of P positions that a network makes of an image by halving its edges, each half rounded
// up. Throws Error (bug) where no halving gives P.
std::pair<int64_t, int64_t> map_edges(const ImageShape& image, int64_t positions);

// Reads of B images as an object for each: height and width of the map, heads, top_k, and as flat lists, height first,
// `index` (rows) and `weight` (rounded to four digits behind the point).
std::vector<nlohmann::json> row_maps(const at::Tensor& index, const at::Tensor& weight, int64_t images,
                                     const ImageShape& shape);

// Height, width, channels and the pixels as hexadecimal digits, two a byte.
nlohmann::json pixels_json(const Image& image);

}  // namespace loci
