#include "loci/tasks/row_map.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include "loci/base/check.h"
#include "tests/temporary_folder.h"

namespace loci {
namespace {

TEST(RowMap, EdgesAreThoseOfTheImageHalved) {
  const auto edges = [](int64_t height, int64_t width, int64_t positions) {
    return map_edges({height, width, 3}, positions);
  };
  EXPECT_EQ(edges(32, 32, 64), std::pair(int64_t{8}, int64_t{8}));
  EXPECT_EQ(edges(32, 32, 1024), std::pair(int64_t{32}, int64_t{32}));
  EXPECT_EQ(edges(48, 64, 12 * 16), std::pair(int64_t{12}, int64_t{16}));
  EXPECT_EQ(edges(15, 21, 8 * 11), std::pair(int64_t{8}, int64_t{11}));  // stride 2 with "same" padding rounds up
  EXPECT_EQ(edges(15, 21, 4 * 6), std::pair(int64_t{4}, int64_t{6}));
  EXPECT_EQ(edges(48, 64, 1), std::pair(int64_t{1}, int64_t{1}));  // a head: one query an image
  expect_error(ExitCode::bug, "map_edges: positions must be those of a halved 32 x 32, got 63",
               [&] { edges(32, 32, 63); });
}

TEST(RowMap, AnImageHasItsOwnReads) {
  const at::Tensor index = torch::arange(2 * 4 * 3 * 2).view({8, 3, 2});
  const at::Tensor weight = torch::full({8, 3, 2}, 1.0 / 3).to(at::kBFloat16);
  const auto maps = row_maps(index, weight, 2, {2, 2, 1});
  ASSERT_EQ(maps.size(), 2u);
  EXPECT_EQ(maps[1].at("height"), 2);
  EXPECT_EQ(maps[1].at("width"), 2);
  EXPECT_EQ(maps[1].at("heads"), 3);
  EXPECT_EQ(maps[1].at("top_k"), 2);
  EXPECT_EQ(maps[0].at("index").at(0), 0);
  EXPECT_EQ(maps[1].at("index").size(), 24u);
  EXPECT_EQ(maps[1].at("index").at(0), 24);
  EXPECT_EQ(maps[1].at("index").at(23), 47);
  EXPECT_EQ(maps[1].at("weight").at(5).dump(), "0.334");  // of bfloat16
}

TEST(RowMap, PixelsAreDigits) {
  const nlohmann::json pixels = pixels_json({{1, 2, 3}, {0, 15, 16, 255, 171, 1}});
  EXPECT_EQ(pixels.at("pixels"), "000f10ffab01");
  EXPECT_EQ(pixels.at("width"), 2);
}

}  // namespace
}  // namespace loci
