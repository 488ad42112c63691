#include "loci/tasks/places.h"

#include <gtest/gtest.h>
#include <torch/types.h>
#include <torch/utils.h>

#include <cmath>
#include <set>

namespace loci {
namespace {

TEST(PlacesTest, KMeansFindsSeparateClusters) {
  torch::manual_seed(1);
  const auto centre = 10 * torch::randn({5, 3});
  const auto x = (centre.repeat({20, 1}) + 0.1 * torch::randn({100, 3}));
  const std::vector<int64_t> cluster = k_means(x, 25, 1);
  ASSERT_EQ(cluster.size(), 100u);
  // With more clusters than groups no cluster holds points of two groups.
  for (size_t i = 0; i < 100; ++i) {
    for (size_t j = 0; j < i; ++j) {
      if (cluster[i] == cluster[j]) {
        EXPECT_EQ(i % 5, j % 5);
      }
    }
  }
  EXPECT_EQ(k_means(x, 25, 1), cluster);
  EXPECT_EQ(k_means(x, 1000, 1).size(), 100u);
  const std::vector<int64_t> one = k_means(x, 1, 1);
  EXPECT_EQ(std::set<int64_t>(one.begin(), one.end()).size(), 1u);
}

// Rows that are equal to each other leave clusters without a row.
TEST(PlacesTest, EmptyClustersDoNoHarm) {
  const auto x = torch::tensor({{0.0F, 1.0F}, {5.0F, 0.0F}, {0.0F, -7.0F}}).repeat({4, 1});
  const std::vector<int64_t> cluster = k_means(x, 12, 1);
  for (size_t i = 0; i < 12; ++i) {
    for (size_t j = 0; j < i; ++j) EXPECT_EQ(cluster[i] == cluster[j], i % 3 == j % 3);
  }
}

// A camera that wanders along one path; its images say where it is.
struct Wanderer {
  OpenedPoses data;
  Wanderer() {
    std::vector<uint8_t> pixels;
    for (int i = 0; i < 300; ++i) {
      const double x = 3 + 2 * std::sin(i / 17.0) + std::sin(i / 41.0), y = 3 + 3 * std::sin(i / 29.0);
      for (int p = 0; p < 8 * 8; ++p) {
        pixels.push_back(static_cast<uint8_t>(40 * x));
        pixels.push_back(static_cast<uint8_t>(40 * y));
        pixels.push_back(static_cast<uint8_t>(20 * (x + y)));
      }
      data.poses.push_back({{x, y, 1}, {}});
      data.paths.push_back(0);
    }
    data.images = ImageSet({8, 8, 3}, std::move(pixels));
    data.scale = channel_scale(data.images);
  }
};

PosenetOptions placed_options() {
  PosenetOptions options;
  options.width = 4;
  options.head_width = 8;
  options.memory.rows = 256;
  options.memory.heads = 1;
  options.memory.top_k = 2;
  options.memory.key_width = 8;
  options.has_memory = true;
  return options;
}

// All four rows are read by both heads for every frame.
TEST(PlacesTest, TheMassOfAFrameIsOne) {
  const Wanderer camera;
  PosenetOptions options = placed_options();
  options.memory.rows = options.memory.top_k = 4;
  options.memory.heads = 2;
  Posenet model(options, 1);
  model.eval();
  const nlohmann::json shown = account_of_places(model, camera.data, camera.data.scale, 1, nullptr).json.at("shown");
  ASSERT_EQ(shown.size(), 4u);
  double of_rows = 0;
  for (size_t frame = 0; frame < 300; frame += 50) {
    double mass = 0;
    for (const auto& row : shown) mass += row.at("mass_of_frames").at(frame).get<double>();
    EXPECT_NEAR(mass, 1, 1e-6);
  }
  for (const auto& row : shown) of_rows += row.at("mass").get<double>();
  EXPECT_NEAR(of_rows, 1, 1e-6);
}

TEST(PlacesTest, AMemoryThatReadsPlacesIsFound) {
  Posenet model(placed_options(), 1);
  const Wanderer camera;
  const OpenedPoses& data = camera.data;
  model.train();  // statistics of the norms
  {
    const at::NoGradGuard guard;
    std::vector<int64_t> frames(300);
    for (int64_t i = 0; i < 300; ++i) frames[static_cast<size_t>(i)] = i;
    for (int repeat = 0; repeat < 40; ++repeat) model.read(data.input(frames, data.scale));
  }
  model.eval();
  const Account found = account_of_places(model, data, data.scale, 1, nullptr);
  EXPECT_GT(found.json.at("memory").at("overlap").get<double>(), 0.2);
  EXPECT_LT(found.json.at("memory").at("overlap_p").get<double>(), 0.02);
  EXPECT_GT(found.json.at("memory").at("information").get<double>(), 0);
  EXPECT_LE(found.json.at("shown").size(), 16u);
  EXPECT_EQ(found.json.at("shown").at(0).at("mass_of_frames").size(), 300u);
  EXPECT_EQ(found.json.at("positions").size(), 300u);
  for (const char* name : {"untrained", "clusters"}) EXPECT_TRUE(found.json.at(name).contains("overlap_p")) << name;
  EXPECT_NE(found.text.find("untrained"), std::string::npos);
}

}  // namespace
}  // namespace loci
