// Legend: B images, P positions of a map, H heads, K top_k.
#include "loci/tasks/row_map.h"

#include <algorithm>
#include <cmath>
#include <string_view>

#include "loci/base/check.h"

namespace loci {

std::pair<int64_t, int64_t> map_edges(const ImageShape& image, int64_t positions) {
  int64_t height = image.height, width = image.width;
  while (height * width > std::max<int64_t>(1, positions)) {
    height = (height + 1) / 2;
    width = (width + 1) / 2;
  }
  if (height * width != positions) {
    fail(ExitCode::bug, "map_edges",
         fmt::format("positions must be those of a halved {} x {}", image.height, image.width),
         fmt::to_string(positions));
  }
  return {height, width};
}

std::vector<nlohmann::json> row_maps(const at::Tensor& index, const at::Tensor& weight, int64_t images,
                                     const ImageShape& shape) {
  const int64_t tokens = index.size(0), heads = index.size(1), top_k = index.size(2);
  const auto [height, width] = map_edges(shape, tokens / images);
  const int64_t numbers = tokens / images * heads * top_k;  // of an image
  const at::Tensor rows = index.contiguous(), weights = weight.to(at::kDouble).contiguous();
  std::vector<nlohmann::json> maps;
  for (int64_t image = 0; image < images; ++image) {
    const int64_t* row = rows.const_data_ptr<int64_t>() + image * numbers;
    const double* of_row = weights.const_data_ptr<double>() + image * numbers;
    std::vector<double> rounded;
    for (int64_t i = 0; i < numbers; ++i) rounded.push_back(std::round(of_row[i] * 1e4) / 1e4);
    maps.push_back({{"height", height},
                    {"width", width},
                    {"heads", heads},
                    {"top_k", top_k},
                    {"index", std::vector<int64_t>(row, row + numbers)},
                    {"weight", rounded}});
  }
  return maps;
}

nlohmann::json pixels_json(const Image& image) {
  constexpr std::string_view digits = "0123456789abcdef";
  std::string text;
  for (const uint8_t byte : image.pixels) {
    text += digits[byte / 16];
    text += digits[byte % 16];
  }
  return {{"height", image.shape.height},
          {"width", image.shape.width},
          {"channels", image.shape.channels},
          {"pixels", text}};
}

}  // namespace loci
